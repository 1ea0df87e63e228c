//go:build mage

package main

import (
	"fmt"
	"os"
	"strings"
	"syscall"
)

// Mage does not pass SIGTERM on: a run whose mage was ended, for example by
// timeout(1), would go on by itself.
func init() {
	parent, err := os.ReadFile(fmt.Sprintf("/proc/%d/comm", os.Getppid()))
	if err == nil && strings.TrimSpace(string(parent)) == "mage" {
		_, _, _ = syscall.RawSyscall(syscall.SYS_PRCTL, syscall.PR_SET_PDEATHSIG, uintptr(syscall.SIGTERM), 0)
	}
}
