//go:build faults

package main

import (
	"syscall"

	"github.com/spf13/pflag"
)

// addFaults is for tests that kill the manager between two steps. What is shipped is built without it.
func addFaults(f *pflag.FlagSet, o *options) {
	fault := f.String("fault", "", "end as by kill -9 right after this step, for instance claimed")
	o.reached = func(point string) error {
		if point != *fault {
			return nil
		}
		return syscall.Kill(syscall.Getpid(), syscall.SIGKILL)
	}
}
