// Package probe reads what a process costs, from outside, by what Linux tells of it.
package probe

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// CPU is the processor time that a process has used so far, user and system, to the nanosecond.
func CPU(pid int) (time.Duration, error) {
	var ts unix.Timespec
	// clock_getcpuclockid(3): the complement of the process' id, shifted, and the kind of clock: its scheduler's
	if err := unix.ClockGettime(int32(^pid<<3|2), &ts); err != nil {
		return 0, fmt.Errorf("read the CPU time of process %d: %w", pid, err)
	}
	return time.Duration(ts.Nano()), nil
}

// Resident is the memory of a process that is in RAM, in bytes. It is counted page by page: the sum in /proc/<pid>/status is an estimate.
func Resident(pid int) (int64, error) { return field(pid, "smaps_rollup", "Rss:") }

// Peak is the most that was ever resident, in bytes.
func Peak(pid int) (int64, error) { return field(pid, "status", "VmHWM:") }

func field(pid int, file, name string) (int64, error) {
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", pid, file))
	if err != nil {
		return 0, fmt.Errorf("read the memory of process %d: %w", pid, err)
	}
	return parse(b, name)
}

// parse finds a line of a file in /proc, "Name:   123 kB", and returns bytes.
func parse(b []byte, name string) (int64, error) {
	for line := range bytes.Lines(b) {
		f := bytes.Fields(line)
		if len(f) == 3 && string(f[0]) == name && string(f[2]) == "kB" {
			n, err := strconv.ParseInt(string(f[1]), 10, 64)
			if err != nil {
				return 0, fmt.Errorf("read %s: %w", name, err)
			}
			return n << 10, nil
		}
	}
	return 0, fmt.Errorf("this kernel does not tell %s", name)
}

// Settled is what is resident once it no longer falls: the least of what is seen until it has not fallen for a while, for patience at most.
func Settled(ctx context.Context, pid int, while, patience time.Duration) (int64, error) {
	least, err := Resident(pid)
	if err != nil {
		return 0, err
	}
	tick := time.NewTicker(while / 10)
	defer tick.Stop()
	began, fell := time.Now(), time.Now()
	for time.Since(fell) < while && time.Since(began) < patience {
		select {
		case <-ctx.Done():
			return 0, context.Cause(ctx)
		case <-tick.C:
		}
		now, err := Resident(pid)
		if err != nil {
			return 0, err
		}
		if now < least {
			least, fell = now, time.Now()
		}
	}
	return least, nil
}
