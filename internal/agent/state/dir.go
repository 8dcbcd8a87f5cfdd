// Package state is the agent's directory: what it must not lose, written so that a crash at any moment leaves the old or the new.
//
//	lock                one agent per directory
//	state               AgentState (api/agent/state/v1): epoch, time floor, trust, assignment, policies
//	root.pin            SHA-256 of the pinned root key, in hexadecimal: to find the trust again if the file state is damaged
//	token               the enrolment token, until the identity is here
//	identity/           agent.key, agent.crt (PEM): who this machine is
//	pending/            the key, the request and the certificate of an enrolment or a renewal that is under way
//	actions/            the journal: JournalRecord (api/agent/state/v1) of each action, by its UID
//	content/            in-use, a ContentRecord; the bundles that it names, by their digests; <digest>.part, a download that is under way
//	reserve             room for the files above on a full disk
//	agent.sock          where cytool asks
//
// The directory is 0700, every file 0600. A file that does not parse is set aside as <name>.corrupt and named.
package state

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
)

// ErrInUse is wrapped by Open when another agent has the directory.
var ErrInUse = errors.New("another agent uses this state directory")

const (
	maxFileBytes = 2 << 20
	reserveBytes = 64 << 10
	tempSuffix   = ".tmp"
	asideSuffix  = ".corrupt"
)

// Dir is an open state directory. Its methods may be called from one goroutine, Damaged from any.
type Dir struct {
	path  string
	lock  *os.File
	light bool

	// changed is called after each change on the disk: where a crash could come.
	changed func()

	mu      sync.Mutex
	damaged []string
}

// Option changes how a directory is kept.
type Option func(*Dir)

// Light leaves it to the kernel when to write to the disk, and holds no reserve: a killed process loses nothing, a power cut may. For
// simulations, where many agents share one disk.
func Light() Option { return func(d *Dir) { d.light = true } }

// OnChange calls f after each change on the disk. For tests: a crash could come there.
func OnChange(f func()) Option { return func(d *Dir) { d.changed = f } }

// Open makes the directory where it is missing, locks it, and removes what a crash left half written. Errors say what to do.
func Open(path string, options ...Option) (*Dir, error) {
	d := &Dir{path: path, changed: func() {}}
	for _, o := range options {
		o(d)
	}
	for _, dir := range []string{"", "identity", "pending", contentDir} {
		if err := private(filepath.Join(path, dir)); err != nil {
			return nil, fmt.Errorf("prepare the state directory: %w", err)
		}
	}
	lock, err := os.OpenFile(d.file("lock"), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open the state directory's lock: %w", err)
	}
	if err := lockFile(lock); err != nil {
		_ = lock.Close()
		return nil, fmt.Errorf("%w (%s): stop it first, or name another directory: %w", ErrInUse, path, err)
	}
	d.lock = lock
	d.sweep()
	if !d.light {
		d.keepReserve()
	}
	return d, nil
}

// Close lets another agent have the directory.
func (d *Dir) Close() error { return d.lock.Close() }

// Path is where the directory is.
func (d *Dir) Path() string { return d.path }

// Damaged lists the files that did not parse and were set aside, with the reason.
func (d *Dir) Damaged() []string {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.damaged)
}

func (d *Dir) file(name string) string { return filepath.Join(d.path, filepath.FromSlash(name)) }

// read returns nil without an error where there is no such file.
func (d *Dir) read(name string) ([]byte, error) {
	b, err := readFile(d.file(name), maxFileBytes)
	if errors.Is(err, errTooLarge) {
		d.setAside(name, err)
		return nil, nil
	}
	return b, err
}

var errTooLarge = errors.New("it is larger than it may be")

func readFile(path string, limit int64) ([]byte, error) {
	f, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the agent's state: %w", err)
	}
	defer func() { _ = f.Close() }() // only read
	b, err := io.ReadAll(io.LimitReader(f, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read the agent's state: %w", err)
	}
	if int64(len(b)) > limit {
		return nil, errTooLarge
	}
	return b, nil
}

// write replaces a file as a whole, durably. On a full disk it gives up the reserve and tries once more.
func (d *Dir) write(name string, b []byte) error {
	err := d.replace(name, b)
	if IsFull(err) && os.Remove(d.file("reserve")) == nil {
		return d.replace(name, b)
	}
	return err
}

// IsFull tells whether err is for want of room on the disk.
func IsFull(err error) bool { return errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) }

func (d *Dir) replace(name string, b []byte) (err error) {
	target := d.file(name)
	defer func() {
		if err != nil {
			_ = os.Remove(target + tempSuffix) // half of it is worth nothing
			err = fmt.Errorf("write the agent's state: %w", err)
		}
	}()
	f, err := os.OpenFile(target+tempSuffix, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(b)
	if err == nil && !d.light {
		err = f.Sync()
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return err
	}
	if err = os.Rename(target+tempSuffix, target); err != nil {
		return err
	}
	d.changed()
	return d.syncDir(filepath.Dir(target))
}

func (d *Dir) remove(names ...string) error {
	for _, name := range names {
		if err := os.Remove(d.file(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove from the agent's state: %w", err)
		}
		d.changed()
		if err := d.syncDir(filepath.Dir(d.file(name))); err != nil {
			return err
		}
	}
	return nil
}

func (d *Dir) syncDir(path string) error {
	if d.light || runtime.GOOS == "windows" { // NTFS orders its own metadata, and directories cannot be synced there
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

// setAside keeps a file that does not parse for people to look at. An older one of that name goes.
func (d *Dir) setAside(name string, why error) {
	if err := os.Rename(d.file(name), d.file(name+asideSuffix)); err != nil {
		why = errors.Join(why, err)
	}
	d.isDamaged(name, why)
}

func (d *Dir) isDamaged(name string, why error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.damaged = append(d.damaged, fmt.Sprintf("%s, kept as %s: %v", d.file(name), filepath.Base(name)+asideSuffix, why))
}

// sweep removes the temporary files of a write that a crash cut short.
func (d *Dir) sweep() {
	for _, dir := range []string{"", "identity", "pending", journalDir, contentDir} {
		entries, err := os.ReadDir(d.file(dir))
		if err != nil {
			continue
		}
		for _, e := range entries {
			if strings.HasSuffix(e.Name(), tempSuffix) {
				_ = os.Remove(d.file(dir + "/" + e.Name())) // the next write truncates it anyway
			}
		}
	}
}

// keepReserve holds some room for the day when the disk is full; without it (the disk is full already) the agent works all the same.
func (d *Dir) keepReserve() {
	if i, err := os.Stat(d.file("reserve")); err == nil && i.Size() == reserveBytes {
		return
	}
	_ = d.replace("reserve", make([]byte, reserveBytes))
}

// private makes a directory that nobody else may enter, or takes others' rights from one that is there.
func private(path string) error {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return err
	}
	info, err := os.Stat(path)
	if err != nil {
		return err
	}
	if info.Mode().Perm() == 0o700 || runtime.GOOS == "windows" {
		return nil
	}
	return os.Chmod(path, 0o700) //nolint:gosec // a directory needs its x bit
}
