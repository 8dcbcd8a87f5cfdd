//go:build linux

// Command node is `make test-node`: it runs what config/default ships on a real node, as users do, and tries what only real Pods show. Agents
// enrol through the Service, the Deployment is rolled, evicted, killed, and taken apart into two, while somebody creates actions: none may be
// lost, and nobody may be shown offline.
package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"

	"github.com/rollcall-dev/rollcall/hack/controlplane"
	"github.com/rollcall-dev/rollcall/hack/node"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	do := outside
	_, inside := node.Inside()
	if inside {
		do = within
	}
	if err := do(ctx); err != nil {
		if interrupted := inside && ctx.Err() != nil; !interrupted && !errors.Is(err, errSaid) { // the program outside says that
			fmt.Fprintln(os.Stderr, "make test-node:", err)
		}
		os.Exit(1)
	}
}

// errSaid ends the program outside when the one inside has said why.
var errSaid = errors.New("")

// steps prints a line for each thing that was done, with its time.
type steps struct{ out io.Writer }

func (s steps) do(name string, do func() (string, error)) error {
	began := time.Now()
	result, err := do()
	if err != nil {
		return fmt.Errorf("%s: %w", name, err)
	}
	fmt.Fprintf(s.out, "  %-15s %-110s %6.1fs\n", name, result, time.Since(began).Seconds())
	return nil
}

// outside builds everything, has the rest done on the node, and cleans up.
func outside(ctx context.Context) (err error) {
	began := time.Now()
	if err := node.Missing(); err != nil {
		return err
	}
	root, err := os.Getwd()
	if err != nil {
		return err
	}
	if _, err := os.Stat(filepath.Join(root, "config", "default")); err != nil {
		return errors.New("run this from the repository's root, with make")
	}
	plane, err := controlplane.Ensure(ctx, controlplane.Options{Out: os.Stdout})
	if err != nil {
		return err
	}
	bin, err := controlplane.EnsureNode(ctx, controlplane.Options{Out: os.Stdout})
	if err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "rollcall-node-")
	if err != nil {
		return err
	}
	defer func() {
		if keep := len(os.Args) > 1 && os.Args[1] == "--keep"; !keep && err == nil || ctx.Err() != nil {
			err = errors.Join(err, os.RemoveAll(dir))
			return
		}
		keepLogs(dir)
		fmt.Fprintf(os.Stderr, "make test-node: the logs of the node are in %s/log, those of its containers in log/pods/pods\n", dir)
	}()
	fmt.Fprintf(os.Stdout, "test-node  Kubernetes v%s on a node of this machine's own\n", controlplane.DefaultVersion)
	b := builder{root: root, dir: dir, out: os.Stdout}
	if err := b.build(ctx); err != nil {
		return err
	}
	if err := node.Enter(ctx, dir, plane, bin); err != nil {
		if ctx.Err() != nil {
			return errors.New("interrupted; everything is cleaned up")
		}
		return errSaid
	}
	fmt.Fprintf(os.Stdout, "All of it in %.0fs.\n", time.Since(began).Seconds())
	return nil
}

// keepLogs removes everything else.
func keepLogs(dir string) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return
	}
	for _, e := range entries {
		if e.Name() != "log" {
			_ = os.RemoveAll(filepath.Join(dir, e.Name()))
		}
	}
}

// within does the rest, in the node's namespaces: every client is there too.
func within(ctx context.Context) error {
	dir, _ := node.Inside()
	t := &trial{steps: steps{os.Stdout}, dir: dir, plane: os.Args[1], bin: os.Args[2]}
	return t.run(ctx)
}
