//go:build unix && !linux

package controlplane

import "syscall"

// compilerAttr gives the compiler a process group of its own.
func compilerAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true}
}
