package controlplane

import "syscall"

// compilerAttr gives the compiler a process group of its own, and an end when
// this process ends, however that happens.
func compilerAttr() *syscall.SysProcAttr {
	return &syscall.SysProcAttr{Setpgid: true, Pdeathsig: syscall.SIGKILL}
}
