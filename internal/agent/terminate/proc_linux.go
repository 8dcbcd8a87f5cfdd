package terminate

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// tick is a clock tick as /proc counts them: USER_HZ, 100 on every architecture that Go runs on.
const tick = 10 * time.Millisecond

// stat is what /proc/<pid>/stat says of a process.
type stat struct {
	name   string // of the program, cut to 15 bytes
	state  byte
	parent int
	start  uint64 // in ticks since boot
}

// ended tells whether nothing of it runs any more.
func (s stat) ended() bool { return s.state == 'Z' || s.state == 'X' }

// stopped tells whether it is.
func (s stat) stopped() bool { return s.state == 'T' || s.state == 't' || s.ended() }

func procFile(pid int, name string) string { return filepath.Join("/proc", strconv.Itoa(pid), name) }

func readStat(pid int) (stat, error) { return readStatOf(procFile(pid, "stat")) }

func readStatOf(path string) (stat, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return stat{}, err
	}
	return parseStat(b)
}

// hasStopped tells whether each thread of a process has: one that is still in the middle of starting another process has not. What cannot be
// read has ended.
func hasStopped(pid int) bool {
	threads, err := os.ReadDir(procFile(pid, "task"))
	if err != nil {
		return true
	}
	for _, thread := range threads {
		if s, err := readStatOf(procFile(pid, "task/"+thread.Name()+"/stat")); err == nil && !s.stopped() {
			return false
		}
	}
	return true
}

// parseStat reads proc(5). The name is in parentheses, and may have parentheses and spaces itself.
func parseStat(b []byte) (stat, error) {
	from, to := bytes.IndexByte(b, '('), bytes.LastIndexByte(b, ')')
	if from < 0 || to < from {
		return stat{}, errors.New("/proc/<pid>/stat has no name")
	}
	fields := strings.Fields(string(b[to+1:])) // from the third on
	if len(fields) < 20 || len(fields[0]) != 1 {
		return stat{}, errors.New("/proc/<pid>/stat is cut short")
	}
	parent, err := strconv.Atoi(fields[1])
	if err != nil {
		return stat{}, fmt.Errorf("the parent in /proc/<pid>/stat: %w", err)
	}
	start, err := strconv.ParseUint(fields[19], 10, 64)
	if err != nil {
		return stat{}, fmt.Errorf("the start in /proc/<pid>/stat: %w", err)
	}
	return stat{name: string(b[from+1 : to]), state: fields[0][0], parent: parent, start: start}, nil
}

// processes are all PIDs that can be seen.
func processes() ([]int, error) {
	d, err := os.Open("/proc")
	if err != nil {
		return nil, err
	}
	defer func() { _ = d.Close() }() // only read
	names, err := d.Readdirnames(-1)
	if err != nil {
		return nil, err
	}
	var out []int
	for _, name := range names {
		if pid, err := strconv.Atoi(name); err == nil {
			out = append(out, pid)
		}
	}
	return out, nil
}

// deleted is what the kernel adds to the path of a file that is no longer there, or was replaced.
const deleted = " (deleted)"

// executable is the path of what a process runs, as its own file system has it. Kernel threads run none.
func executable(pid int) (string, error) { return os.Readlink(procFile(pid, "exe")) }

// owner is the user of a process.
func owner(pid int) (uint32, bool) {
	info, err := os.Stat(procFile(pid, ""))
	if err != nil {
		return 0, false
	}
	s, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, false
	}
	return s.Uid, true
}

// file tells one content of a file from another.
type file struct {
	device, inode uint64
	size          int64
	changed       syscall.Timespec
}

// digests of executables, each computed once.
type digests map[file]string

// of is the SHA-256 of what a process runs, in hexadecimal: of the very file, also if its path is another's by now.
func (d digests) of(ctx context.Context, pid int) (string, error) {
	f, err := os.Open(procFile(pid, "exe"))
	if err != nil {
		return "", err
	}
	defer func() { _ = f.Close() }() // only read
	info, err := f.Stat()
	if err != nil {
		return "", err
	}
	var key file
	if s, ok := info.Sys().(*syscall.Stat_t); ok {
		key = file{s.Dev, s.Ino, s.Size, s.Ctim}
	}
	if known, ok := d[key]; ok {
		return known, nil
	}
	h := sha256.New()
	if _, err := io.Copy(h, untilDone{ctx, f}); err != nil {
		return "", err
	}
	d[key] = hex.EncodeToString(h.Sum(nil))
	return d[key], nil
}

// untilDone reads until a context ends.
type untilDone struct {
	ctx context.Context //nolint:containedctx // for the length of one copy
	r   io.Reader
}

func (u untilDone) Read(b []byte) (int, error) {
	if u.ctx.Err() != nil {
		return 0, context.Cause(u.ctx)
	}
	return u.r.Read(b)
}

// bootTime is when the machine booted, by its wall clock: to it the ticks are added. It is what ps and others add them to.
func bootTime() (time.Time, error) {
	b, err := os.ReadFile("/proc/stat")
	if err != nil {
		return time.Time{}, err
	}
	for line := range strings.Lines(string(b)) {
		if seconds, ok := strings.CutPrefix(line, "btime "); ok {
			n, err := strconv.ParseInt(strings.TrimSpace(seconds), 10, 64)
			return time.Unix(n, 0), err
		}
	}
	return time.Time{}, errors.New("/proc/stat does not say when the machine booted")
}

func bootID() string {
	b, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return ""
	}
	return strings.TrimSpace(string(b))
}
