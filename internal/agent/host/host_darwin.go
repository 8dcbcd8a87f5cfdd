package host

import (
	"strconv"
	"time"

	"github.com/shirou/gopsutil/v4/host"
	"golang.org/x/sys/unix"
)

// boottime: on macOS CLOCK_MONOTONIC goes on while the machine sleeps.
func boottime() time.Duration {
	var ts unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &ts); err != nil {
		return 0
	}
	return time.Duration(ts.Nano())
}

func machineID() string {
	id, err := host.HostID()
	if err != nil {
		return ""
	}
	return id
}

// bootID: macOS names no boot, but it knows when it was.
func bootID() string {
	t, err := host.BootTime()
	if err != nil {
		return ""
	}
	return machineID() + strconv.FormatUint(t, 10)
}

func model() string {
	s, err := unix.Sysctl("hw.model")
	if err != nil {
		return ""
	}
	return s
}
