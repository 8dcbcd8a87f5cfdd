package rig

import (
	"bytes"
	"fmt"
	"os"
	"runtime"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/rollcall-dev/rollcall/test/harness"
)

// Root is the repository.
func Root() string { return harness.Root() }

// Machine says in a line what it was measured on, and how busy that was before.
func Machine(agents int) string {
	var info unix.Sysinfo_t
	_ = unix.Sysinfo(&info) // zeros are odd enough to be seen
	var name unix.Utsname
	_ = unix.Uname(&name)
	kernel := string(bytes.TrimRight(name.Release[:], "\x00"))
	return fmt.Sprintf("%s: %d cores (%s), %.0f GB memory, Linux %s, %s; load before %.1f; N=%d",
		time.Now().UTC().Format(time.DateOnly), runtime.NumCPU(), processor(), float64(info.Totalram)*float64(info.Unit)/1e9, kernel, runtime.Version(),
		float64(info.Loads[0])/(1<<16), agents)
}

func processor() string {
	b, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return runtime.GOARCH
	}
	for line := range strings.Lines(string(b)) {
		if name, value, found := strings.Cut(line, ":"); found && strings.TrimSpace(name) == "model name" {
			return strings.TrimSpace(value)
		}
	}
	return runtime.GOARCH
}
