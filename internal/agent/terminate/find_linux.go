package terminate

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
)

// wanted is which processes are to be ended: all that is given must match.
type wanted struct {
	pid    int
	start  time.Time
	path   string
	paths  []string // of the executable: as given, and with links in its directory resolved
	digest string
}

func want(m *agentv1.TerminateProcess) wanted {
	w := wanted{pid: int(m.GetPid()), path: m.GetExecutable(), digest: m.GetSha256()}
	if m.GetStartTime() != nil {
		w.start = m.GetStartTime().AsTime()
	}
	if w.path != "" {
		w.paths = []string{filepath.Clean(w.path)}
		// /bin is /usr/bin on most machines. The file itself is not resolved: one program may go by many names, and only one of them is meant.
		if dir, err := filepath.EvalSymlinks(filepath.Dir(w.path)); err == nil {
			w.paths = append(w.paths, filepath.Join(dir, filepath.Base(w.path)))
		}
	}
	return w
}

// String is what is wanted, in words that follow "no process".
func (w wanted) String() string {
	switch {
	case w.path != "" && w.digest != "":
		return fmt.Sprintf("runs %s with the digest %.12s…", w.path, w.digest)
	case w.path != "":
		return "runs " + w.path + w.link()
	default:
		return fmt.Sprintf("runs a file with the digest %.12s…", w.digest)
	}
}

// link says where a path leads that is a link: the kernel names what it leads to.
func (w wanted) link() string {
	if to, err := os.Readlink(w.path); err == nil {
		return ", which is a link to " + to
	}
	return ""
}

// seen is a process that was looked at.
type seen struct {
	pid  int
	exe  string // "" where it may not be looked at
	stat stat
}

func (s seen) String() string {
	if s.exe == "" {
		return fmt.Sprintf("pid %d (%s)", s.pid, s.stat.name)
	}
	return fmt.Sprintf("pid %d (%s)", s.pid, s.exe)
}

// mismatch is why a process is not one of those that are wanted.
type mismatch string

func (m mismatch) Error() string { return string(m) }

// errUnseen is wrapped where a process may not be looked at.
var errUnseen = errors.New("the agent may not look at it")

// look compares a process with what is wanted. Without an error it is one.
func (x *Executor) look(ctx context.Context, w wanted, pid int, known digests) (seen, error) {
	s := seen{pid: pid}
	var err error
	if s.stat, err = readStat(pid); err != nil || s.stat.ended() {
		return s, mismatch(fmt.Sprintf("there is no process with the pid %d", pid))
	}
	if began := x.began(s.stat); w.pid != 0 && began.Sub(w.start).Abs() > tick {
		return s, mismatch(fmt.Sprintf("the process with the pid %d began at %s, not at %s: it is another one", pid, stamp(began), stamp(w.start)))
	}
	s.exe, err = executable(pid)
	switch {
	case errors.Is(err, fs.ErrNotExist): // a kernel thread, or it has just ended
		return s, mismatch(fmt.Sprintf("the process with the pid %d runs no program", pid))
	case err != nil && w.path == "" && w.digest == "": // the pid and its start are enough
		return s, nil
	case err != nil:
		return s, fmt.Errorf("%w: %w", errUnseen, err)
	}
	path := s.exe
	if s.exe = strings.TrimSuffix(s.exe, deleted); w.path != "" && !slices.Contains(w.paths, s.exe) && !slices.Contains(w.paths, path) {
		return s, mismatch(fmt.Sprintf("%s does not run %s%s", s, w.path, w.link()))
	}
	if w.digest == "" {
		return s, nil
	}
	digest, err := known.of(ctx, pid)
	switch {
	case errors.Is(err, fs.ErrPermission):
		return s, fmt.Errorf("%w: %w", errUnseen, err)
	case err != nil:
		return s, mismatch(fmt.Sprintf("what %s runs cannot be read: %v", s, err))
	case digest != w.digest:
		return s, mismatch(fmt.Sprintf("what %s runs has the digest %.12s…, not %.12s…", s, digest, w.digest))
	}
	return s, nil
}

// began is when a process did.
func (x *Executor) began(s stat) time.Time {
	return x.boot.Add(time.Duration(s.start) * tick) //nolint:gosec // centuries
}

func stamp(t time.Time) string { return t.UTC().Format("2006-01-02T15:04:05.000Z") }

// found is what a search has come to.
type found struct {
	targets []*target
	// others were not taken, with the reason; one that is only not wanted is not among them.
	others []spared
	// unseen may not be looked at, so many.
	unseen int
	// near is the mismatch of the one process that was asked for by its pid.
	near error
}

// spared is a process that may be wanted and is left alone.
type spared struct {
	seen
	why string
}

// find looks for what is wanted, and holds it.
func (x *Executor) find(ctx context.Context, w wanted) (*found, error) {
	pids, known := []int{w.pid}, digests{}
	if w.pid == 0 {
		var err error
		if pids, err = processes(); err != nil {
			return nil, err
		}
	}
	f, protected := &found{}, ancestors()
	for _, pid := range pids {
		if ctx.Err() == nil { // else the caller sees to it
			x.consider(ctx, f, w, pid, known, slices.Contains(protected, pid))
		}
	}
	return f, nil
}

// consider takes a process if it is wanted. One that the agent needs is left alone, and so is one that may be wanted and may not be looked at.
func (x *Executor) consider(ctx context.Context, f *found, w wanted, pid int, known digests, needed bool) {
	s, err := x.look(ctx, w, pid, known)
	unseen := errors.Is(err, errUnseen)
	switch {
	case unseen && !needed:
		f.unseen++
		if w.looksLike(s) {
			f.others = append(f.others, spared{s, foreign(pid)})
		}
	case err != nil && !unseen:
		f.near = err
	case needed && (!unseen || w.pid != 0):
		f.others = append(f.others, spared{s, "the agent needs it itself"})
	case !needed:
		if t, err := x.hold(ctx, w, pid, known); err == nil {
			f.targets = append(f.targets, t)
		} else {
			f.near = err
		}
	}
}

// looksLike tells whether a process that may not be looked at has the name of what is wanted, by which alone it is not ended.
func (w wanted) looksLike(s seen) bool {
	base := filepath.Base(w.path)
	return w.pid != 0 || w.path != "" && s.stat.name == base[:min(len(base), 15)]
}

// hold opens a pidfd and then looks again: what is seen now is of the process that is held, or the pidfd is nobody's any more.
func (x *Executor) hold(ctx context.Context, w wanted, pid int, known digests) (*target, error) {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil, mismatch(fmt.Sprintf("there is no process with the pid %d", pid))
	}
	s, err := x.look(ctx, w, pid, known)
	if err != nil {
		_ = unix.Close(fd)
		return nil, err
	}
	return &target{seen: s, fd: fd}, nil
}

// ancestors are the processes that are never ended: the agent, whoever started it, and so on to the first.
func ancestors() []int {
	out := []int{1}
	for pid := os.Getpid(); pid > 1; {
		out = append(out, pid)
		s, err := readStat(pid)
		if err != nil || slices.Contains(out, s.parent) {
			break
		}
		pid = s.parent
	}
	return out
}

// foreign says whose a process is.
func foreign(pid int) string {
	whose := "another user"
	if uid, ok := owner(pid); ok && uid == 0 {
		whose = "root"
	} else if ok {
		whose = fmt.Sprintf("user %d", uid)
	}
	return fmt.Sprintf("it belongs to %s, and the agent, user %d, may not end it", whose, os.Geteuid())
}
