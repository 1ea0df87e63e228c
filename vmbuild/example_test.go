package vmbuild_test

import (
	"context"
	"fmt"
	"io"

	"pharovm/vmbuild"
)

// A plan is data: it can be read before anything is built.
func ExampleProject_Plan() {
	p, err := vmbuild.Open("..", io.Discard)
	if err != nil {
		fmt.Println(err)
		return
	}
	plan, err := p.Plan(context.Background(), vmbuild.Options{Source: "sample", Images: []string{"debian"}})
	if err != nil {
		fmt.Println(err)
		return
	}
	for _, b := range plan.Builds {
		fmt.Println(b.ID, b.Triple)
	}
	// Output:
	// sample-server-glibc-linux-amd64 x86_64-linux-gnu
	// sample-server-glibc-linux-arm64 aarch64-linux-gnu
}
