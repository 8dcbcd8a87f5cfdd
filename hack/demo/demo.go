package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"k8s.io/client-go/rest"

	"github.com/rollcall-dev/rollcall/hack/local"
)

// tenant is the namespace of the demo's fleet, personName the platform engineer who works there.
const (
	tenant     = "fleet"
	personName = "person"
	tokenName  = "demo"
)

// often is how often it looks whether what it waits for is there.
const often = 100 * time.Millisecond

// demo is one run, or one look at a run, of the demo in the repository's .run/.
type demo struct {
	out        io.Writer
	root, dir  string
	bin        string
	kubeconfig string
	port       int

	kubectl string
	admin   *rest.Config
	person  local.Person
}

// open finds the repository and its .run/.
func (d *demo) open(out io.Writer) error {
	root, err := os.Getwd()
	if err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(root, "config", "default")); err != nil {
		return errors.New("run this from the repository's root, with make")
	}
	d.out, d.root = out, root
	if d.dir, err = filepath.Abs(d.dir); err != nil {
		return err
	}
	return os.MkdirAll(d.dir, 0o700)
}

// in is a path in .run/.
func (d *demo) in(elements ...string) string {
	return filepath.Join(append([]string{d.dir}, elements...)...)
}

func (d *demo) address() string { return fmt.Sprintf("127.0.0.1:%d", d.port) }

func (d *demo) say(format string, args ...any) { fmt.Fprintf(d.out, format+"\n", args...) }

// step does one thing and prints what came of it with the time it took; what it prints is true by then.
func (d *demo) step(name string, do func() (string, error)) error {
	began := time.Now()
	result, err := do()
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	d.say("  %-15s %-76s %5.1fs", name, result, time.Since(began).Seconds())
	return nil
}
