package host

import (
	"strconv"
	"time"

	"github.com/shirou/gopsutil/v4/host"
	"golang.org/x/sys/windows"
)

// boottime counts sleep too (GetTickCount64).
func boottime() time.Duration { return windows.DurationSinceBoot() }

func machineID() string {
	id, err := host.HostID()
	if err != nil {
		return ""
	}
	return id
}

// bootID: Windows names no boot, but it knows when it was.
func bootID() string {
	t, err := host.BootTime()
	if err != nil {
		return ""
	}
	return machineID() + strconv.FormatUint(t, 10)
}

func model() string { return "" }
