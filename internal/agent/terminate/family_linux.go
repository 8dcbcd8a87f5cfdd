package terminate

import (
	"context"
	"errors"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// target is a process that is to be ended, held by a pidfd.
type target struct {
	seen
	fd      int
	signal  unix.Signal // the last one that it got; 0 for none
	sent    time.Time   // when it got the first
	took    time.Duration
	ended   bool
	refused bool // it may not be signalled
}

// live tells whether it is still to be ended, and can be.
func (t *target) live() bool { return !t.ended && !t.refused }

// send sends a signal. Who has ended is noted.
func (t *target) send(signal unix.Signal) {
	switch err := unix.PidfdSendSignal(t.fd, signal, nil, 0); {
	case err == nil:
		if signal == unix.SIGTERM || signal == unix.SIGKILL {
			if t.signal = signal; t.sent.IsZero() {
				t.sent = time.Now()
			}
		}
	case errors.Is(err, unix.ESRCH):
		t.end()
	default:
		t.refused = true
	}
}

func (t *target) end() {
	t.ended = true
	if !t.sent.IsZero() {
		t.took = time.Since(t.sent)
	}
}

// family is all processes that one action is to end, parents before their children.
type family []*target

func (f family) close() {
	for _, t := range f {
		_ = unix.Close(t.fd)
	}
}

func (f family) live() bool { return slices.ContainsFunc(f, (*target).live) }

// send sends a signal to all that live.
func (f family) send(signal unix.Signal) {
	for _, t := range f {
		if t.live() {
			t.send(signal)
		}
	}
}

const (
	// lookEvery is how often a wait looks whether it is over, and for new descendants.
	lookEvery = 100 * time.Millisecond
	// maxRounds bounds how often descendants are looked for before all are found.
	maxRounds = 100
	// stopPatience is how long a process may take to stop. One that waits in the kernel stops later, and mostly starts nothing until then.
	stopPatience = 200 * time.Millisecond
	// maxFamily bounds the descriptors that are held.
	maxFamily = 4096
)

// wait waits until all have ended or the time is over.
func (f *family) wait(ctx context.Context, limit time.Duration, each func()) {
	for end := time.Now().Add(limit); f.live() && ctx.Err() == nil; {
		left := time.Until(end)
		if left <= 0 {
			return
		}
		f.poll(min(left, lookEvery))
		each()
	}
}

// poll waits until one ends, or the time is over, and notes who has ended.
func (f *family) poll(limit time.Duration) {
	var fds []unix.PollFd
	var who []*target
	for _, t := range *f {
		if t.live() {
			fds, who = append(fds, unix.PollFd{Fd: int32(t.fd), Events: unix.POLLIN}), append(who, t) //nolint:gosec // a descriptor
		}
	}
	if _, err := unix.Poll(fds, int(limit.Milliseconds()+1)); err != nil {
		return // interrupted: who calls polls again
	}
	for i, t := range who {
		if fds[i].Revents != 0 {
			t.end()
		}
	}
}

// adopt adds the descendants that are not known yet. What has descended is told by the parent that it has now: only of living parents.
func (f *family) adopt() (more bool) {
	pids, err := processes()
	if err != nil {
		return false
	}
	known := map[int]*target{}
	for _, t := range *f {
		if t.live() {
			known[t.pid] = t
		}
	}
	children := map[int][]int{}
	for _, pid := range pids {
		if s, err := readStat(pid); err == nil && !s.ended() {
			children[s.parent] = append(children[s.parent], pid)
		}
	}
	for i := 0; i < len(*f); i++ { // those that are added have children too
		for _, pid := range children[(*f)[i].pid] {
			if known[(*f)[i].pid] != (*f)[i] || known[pid] != nil || len(*f) >= maxFamily {
				continue
			}
			if t := descendant(pid, (*f)[i]); t != nil {
				known[pid], more = t, true
				*f = append(*f, t)
			}
		}
	}
	return more
}

// descendant holds a child of a process that is held. The parent is asked for after the child is held, and the parent lives: so both are meant.
func descendant(pid int, parent *target) *target {
	fd, err := unix.PidfdOpen(pid, 0)
	if err != nil {
		return nil
	}
	s, err := readStat(pid)
	if err != nil || s.parent != parent.pid || unix.PidfdSendSignal(parent.fd, 0, nil, 0) == unix.ESRCH {
		_ = unix.Close(fd)
		return nil
	}
	exe, _ := executable(pid) // unless it may not be looked at
	return &target{seen: seen{pid: pid, exe: strings.TrimSuffix(exe, deleted), stat: s}, fd: fd}
}

// freeze stops all, parents first, until nobody is left who could start another.
func (f *family) freeze(ctx context.Context) {
	frozen := 0
	for range maxRounds {
		for _, t := range (*f)[frozen:] {
			if t.live() {
				t.send(unix.SIGSTOP)
			}
		}
		for _, t := range (*f)[frozen:] {
			t.awaitStop(ctx)
		}
		frozen = len(*f)
		if !f.adopt() || ctx.Err() != nil {
			return
		}
	}
}

func (t *target) awaitStop(ctx context.Context) {
	for end := time.Now().Add(stopPatience); t.live() && time.Now().Before(end) && ctx.Err() == nil; {
		if hasStopped(t.pid) {
			return
		}
		(&family{t}).poll(time.Millisecond)
	}
}
