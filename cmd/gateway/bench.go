//go:build bench

package main

import (
	"errors"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"runtime"
	"runtime/debug"
	"runtime/pprof"
	"syscall"
)

// profilesEnv names the directory for profiles.
const profilesEnv = "ROLLCALL_BENCH_PROFILES"

// In a gateway that is built for `make bench`, SIGUSR1 gives back what is not in use, and SIGUSR2 starts a profile of the CPU, and the next one
// ends it and writes those of the heap and of the goroutines beside it.
func init() {
	asked := make(chan os.Signal, 1)
	signal.Notify(asked, syscall.SIGUSR1, syscall.SIGUSR2)
	go func() {
		var cpu *os.File
		for s := range asked {
			if s == syscall.SIGUSR1 {
				collect()
				continue
			}
			if err := profile(&cpu); err != nil {
				fmt.Fprintln(os.Stderr, "bench:", err)
			}
		}
	}()
}

// collect runs several collections: each halves a stack at most, and it takes two to empty a pool.
func collect() {
	for range 5 {
		runtime.GC()
	}
	debug.FreeOSMemory()
}

// profile starts a profile of the CPU, or ends it and writes the others, and then a file that says so.
func profile(cpu **os.File) (err error) {
	dir := os.Getenv(profilesEnv)
	if *cpu == nil {
		if *cpu, err = os.Create(filepath.Join(dir, "cpu.pprof")); err != nil {
			*cpu = nil
			return err
		}
		return pprof.StartCPUProfile(*cpu)
	}
	pprof.StopCPUProfile()
	err = (*cpu).Close()
	*cpu = nil
	for _, kind := range []string{"heap", "goroutine"} {
		f, e := os.Create(filepath.Join(dir, kind+".pprof"))
		if e == nil {
			e = errors.Join(pprof.Lookup(kind).WriteTo(f, 0), f.Close())
		}
		err = errors.Join(err, e)
	}
	return errors.Join(err, os.WriteFile(filepath.Join(dir, "done"), nil, 0o600))
}
