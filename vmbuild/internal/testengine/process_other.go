//go:build !linux

package testengine

import (
	"errors"
	"os/exec"
)

func endWithParent(*exec.Cmd) {}

func newSession(*exec.Cmd) {}

func mountBinfmt(string) error { return errors.New("only Linux has it") }
