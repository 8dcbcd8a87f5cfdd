package controlplane

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"time"
)

// fileLock is an advisory lock that the kernel drops when its holder dies. The
// file says who holds it.
type fileLock struct{ f *os.File }

var errLocked = errors.New("locked")

// tryLock takes the lock at path. When another process has it, the error is
// errLocked and the holder is what that process wrote about itself.
func tryLock(path string) (lock *fileLock, holder string, err error) {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, "", err
	}
	if err := syscall.Flock(int(f.Fd()), syscall.LOCK_EX|syscall.LOCK_NB); err != nil {
		defer f.Close()
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return nil, "", fmt.Errorf("lock %s: %w", path, err)
		}
		text, err := io.ReadAll(io.LimitReader(f, 4096))
		if err != nil {
			return nil, "", err
		}
		return nil, strings.TrimSpace(string(text)), errLocked
	}
	dir, _ := os.Getwd()
	if err := f.Truncate(0); err != nil {
		return nil, "", errors.Join(err, f.Close())
	}
	if _, err := fmt.Fprintf(f, "process %d in %s\n", os.Getpid(), dir); err != nil {
		return nil, "", errors.Join(err, f.Close())
	}
	return &fileLock{f}, "", nil
}

// waitLock takes the lock at path, however long another process keeps it.
// waiting is called each time the holder is another one.
func waitLock(ctx context.Context, path string, waiting func(holder string)) (*fileLock, error) {
	ticker := time.NewTicker(200 * time.Millisecond)
	defer ticker.Stop()
	last := ""
	for {
		lock, holder, err := tryLock(path)
		if !errors.Is(err, errLocked) {
			return lock, err
		}
		if holder != last {
			waiting(holder)
			last = holder
		}
		select {
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		case <-ticker.C:
		}
	}
}

// Release lets the next one in. The file stays, so that nobody locks a deleted one.
func (l *fileLock) Release() error { return l.f.Close() }
