package rig

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/rollcall-dev/rollcall/hack/local"
	"github.com/rollcall-dev/rollcall/test/bench/probe"
)

// Gateway is one that runs.
type Gateway struct {
	*local.Process
	// Address is for agents, Health for us.
	Address, Health string
	// Profiles is where they go.
	Profiles, Binary string
}

// Metric is the sum of a metric over its labels. One that is not there is 0.
func (g *Gateway) Metric(ctx context.Context, name string) (float64, error) {
	_, text, err := g.ask(ctx, "/metrics")
	if err != nil {
		return 0, err
	}
	return Sum(text, name)
}

// Sum adds up a metric in Prometheus' text format.
func Sum(text, name string) (sum float64, err error) {
	for r := bufio.NewScanner(strings.NewReader(text)); r.Scan(); {
		rest, found := strings.CutPrefix(r.Text(), name)
		if !found || rest == "" || rest[0] != ' ' && rest[0] != '{' {
			continue
		}
		value := rest[strings.LastIndexByte(rest, ' ')+1:]
		n, err := strconv.ParseFloat(value, 64)
		if err != nil {
			return 0, fmt.Errorf("read the metric %s: %w", name, err)
		}
		sum += n
	}
	return sum, nil
}

// Idle waits until nothing waits to be written.
func (g *Gateway) Idle(ctx context.Context, patience time.Duration) error {
	return Poll(ctx, patience, func() error {
		n, err := g.Metric(ctx, "rollcall_gateway_pending_writes")
		if err == nil && n > 0 {
			err = fmt.Errorf("%.0f endpoints wait to be written", n)
		}
		return err
	})
}

func (g *Gateway) ask(ctx context.Context, path string) (ok bool, body string, err error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+g.Health+path, nil)
	if err != nil {
		return false, "", err
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		return false, "", err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return resp.StatusCode == http.StatusOK, string(b), err
}

// Profile is a kind of profile.
type Profile string

// Profiles.
const (
	CPU  Profile = "cpu"
	Heap Profile = "heap"
)

// Profile takes profiles of the gateway while do runs: of the CPU, and afterwards of the heap and of the goroutines. They are kept under a name of
// their own; file is that of the kind, and top its head.
func (g *Gateway) Profile(ctx context.Context, name string, kind Profile, do func() error) (file, top string, err error) {
	if err := g.Signal(syscall.SIGUSR2); err != nil {
		return "", "", err
	}
	// two signals at once would be one, and the second of them is to find the first obeyed
	if err := g.written(ctx, "cpu.pprof"); err != nil {
		return "", "", err
	}
	if err := errors.Join(do(), g.Signal(syscall.SIGUSR2), g.written(ctx, "done")); err != nil {
		return "", "", err
	}
	for _, k := range []string{"cpu", "heap", "goroutine"} {
		if err := os.Rename(g.profile(k+".pprof"), g.profile(name+"-"+k+".pprof")); err != nil {
			return "", "", err
		}
	}
	file = g.profile(name + "-" + string(kind) + ".pprof")
	out, err := exec.CommandContext(ctx, "go", "tool", "pprof", "-top", "-nodecount=15", g.Binary, file).Output()
	return file, string(out), errors.Join(err, os.Remove(g.profile("done")))
}

func (g *Gateway) profile(name string) string { return filepath.Join(g.Profiles, name) }

// written waits for a file.
func (g *Gateway) written(ctx context.Context, name string) error {
	return Poll(ctx, 10*time.Second, func() error {
		_, err := os.Stat(g.profile(name))
		return err
	})
}

// Server is a process whose memory and CPU are measured.
type Server interface {
	PID() int
	Signal(s syscall.Signal) error
	// Account is what Go's runtime says of its memory, after a collection.
	Account(ctx context.Context) (Account, error)
}

// Account of a process' memory, in bytes: objects, the parts of the heap that they are in, and stacks.
type Account struct{ Objects, Heap, Stacks float64 }

// Less is the difference of two.
func (a Account) Less(b Account) Account {
	return Account{a.Objects - b.Objects, a.Heap - b.Heap, a.Stacks - b.Stacks}
}

// Account asks the gateway's metrics.
func (g *Gateway) Account(ctx context.Context) (a Account, err error) {
	_, text, err := g.ask(ctx, "/metrics")
	for name, to := range map[string]*float64{"heap_alloc": &a.Objects, "heap_inuse": &a.Heap, "stack_inuse": &a.Stacks} {
		if err == nil {
			*to, err = Sum(text, "go_memstats_"+name+"_bytes")
		}
	}
	return a, err
}

// Collected is what a server holds when all that it does not use was given back.
func Collected(ctx context.Context, s Server) (int64, error) {
	if err := s.Signal(syscall.SIGUSR1); err != nil {
		return 0, err
	}
	return probe.Settled(ctx, s.PID(), 1500*time.Millisecond, 15*time.Second)
}
