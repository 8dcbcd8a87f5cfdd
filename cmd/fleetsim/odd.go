package main

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/rollcall-dev/rollcall/internal/agent"
)

const (
	// oldVersion is of an agent from before websockets.
	oldVersion = "6.0.4"
	// cloneSuffix of a cloned machine's directory.
	cloneSuffix = ".clone"
	// goneFile in the directory of an agent that stopped for good.
	goneFile = "gone"
)

// startNumber starts agent i, which may be odd.
func (s *sim) startNumber(ctx context.Context, i int) {
	name := s.name(i)
	dir := filepath.Join(s.stateDir, name)
	switch {
	case s.odd && i == 2:
		s.start(ctx, name, dir, oldVersion)
	case s.odd && i == 3:
		s.start(ctx, name, dir, s.version, withBadDisk(dir))
	case s.odd && i == 4:
		s.startMortal(ctx, name, dir)
	case s.odd && i == 5:
		s.startCloned(ctx, name, dir)
	default:
		s.start(ctx, name, dir, s.version)
	}
}

// startMortal starts an agent that stops for good some time after it was first online: a machine that was there, and is no more.
func (s *sim) startMortal(ctx context.Context, name, dir string) {
	gone := filepath.Join(dir, goneFile)
	if _, err := os.Stat(gone); err == nil {
		s.mu.Lock()
		s.stopped++
		s.mu.Unlock()
		return
	}
	a := s.start(ctx, name, dir, s.version)
	if a == nil {
		return
	}
	s.wg.Go(func() {
		if !a.online(ctx) {
			return
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(s.oddAfter):
		}
		a.stop()
		<-a.done
		if err := os.WriteFile(gone, nil, 0o600); err != nil {
			s.fail(err)
		}
	})
}

// startCloned starts an agent whose disk is copied while it is off; then both start, as from one image: two machines with one identity.
func (s *sim) startCloned(ctx context.Context, name, dir string) {
	clone := dir + cloneSuffix
	_, err := os.Stat(clone)
	first := errors.Is(err, fs.ErrNotExist)
	a := s.start(ctx, name, dir, s.version)
	if a == nil {
		return
	}
	if !first {
		s.start(ctx, name, clone, s.version)
		return
	}
	s.wg.Go(func() {
		if !a.online(ctx) {
			return
		}
		a.stop()
		<-a.done
		if err := errors.Join(os.RemoveAll(clone+".new"), os.Mkdir(clone+".new", 0o700), os.CopyFS(clone+".new", os.DirFS(dir)), os.Rename(clone+".new", clone)); err != nil {
			s.fail(err)
			return
		}
		s.start(ctx, name, dir, s.version)
		s.start(ctx, name, clone, s.version)
	})
}

// online waits until an agent is.
func (a *simulated) online(ctx context.Context) bool {
	tick := time.NewTicker(100 * time.Millisecond)
	defer tick.Stop()
	for a.engine.Status().State != "Online" {
		select {
		case <-ctx.Done():
			return false
		case <-tick.C:
		}
	}
	return true
}

// withBadDisk makes an agent whose disk damages what is downloaded to it, once it has some content: it keeps that.
func withBadDisk(dir string) func(*agent.Config) {
	return func(c *agent.Config) {
		c.SpoilContent = func(file []byte) {
			if _, err := os.Stat(filepath.Join(dir, "content", "in-use")); err == nil && len(file) > 0 {
				file[len(file)/2] ^= 1
			}
		}
	}
}
