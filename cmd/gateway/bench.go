//go:build bench

package main

import (
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

// In a gateway that is built for `make bench`, SIGUSR1 gives back what is not in use, and SIGUSR2 starts a CPU profile, and the next one ends it
// and writes a profile of the heap beside it.
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
	if err != nil {
		return err
	}
	heap, err := os.Create(filepath.Join(dir, "heap.pprof"))
	if err != nil {
		return err
	}
	if err := pprof.WriteHeapProfile(heap); err != nil {
		return err
	}
	return heap.Close()
}
