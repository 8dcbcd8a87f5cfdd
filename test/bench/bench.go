package main

import (
	"context"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/rollcall-dev/rollcall/hack/controlplane"
	"github.com/rollcall-dev/rollcall/test/bench/drill"
	"github.com/rollcall-dev/rollcall/test/bench/rig"
	"github.com/rollcall-dev/rollcall/test/bench/table"
)

// bench is one run.
type bench struct {
	*options
	out   io.Writer
	began time.Time
	// tmp has the programs, clusters and agents' states, and is removed; logs and profiles stay in options.dir.
	tmp, bin string
	pki      *rig.PKI
	// enrolment of the fleet, nil before it began; fleetOf is the fleet, once some row has waited for it.
	enrolment *enrolment
	fleetOf   *world

	speaking sync.Mutex
}

// enrolment is a fleet's, under way or done.
type enrolment struct {
	cancel context.CancelFunc
	done   chan struct{}
	world  *world
	err    error
}

// world is a control plane with agents that have enrolled, and one gateway at a time.
type world struct {
	*rig.System
	token, states string
	gateway       *rig.Gateway
}

func newBench(ctx context.Context, out io.Writer, o *options) (_ *bench, err error) {
	b := &bench{options: o, out: out, began: time.Now()}
	if b.tmp, err = os.MkdirTemp("", "rollcall-bench-"); err != nil {
		return nil, err
	}
	b.bin = filepath.Join(b.tmp, "bin")
	if err := os.MkdirAll(o.dir, 0o700); err != nil {
		return nil, err
	}
	if _, err := controlplane.Ensure(ctx, controlplane.Options{Out: out}); err != nil {
		return nil, err
	}
	b.began = time.Now()
	b.say("building the programs")
	if err := rig.Build(ctx, b.bin); err != nil {
		return nil, err
	}
	b.pki, err = rig.NewPKI(b.tmp)
	return b, err
}

// say tells a person who waits how far it is.
func (b *bench) say(format string, args ...any) {
	b.speaking.Lock()
	defer b.speaking.Unlock()
	fmt.Fprintf(b.out, "make bench: %4.0fs  %s\n", time.Since(b.began).Seconds(), fmt.Sprintf(format, args...))
}

func (b *bench) close() {
	if e := b.enrolment; e != nil {
		e.cancel()
		<-e.done
		if e.world != nil {
			e.world.stop()
		}
		b.enrolment, b.fleetOf = nil, nil
	}
	_ = os.RemoveAll(b.tmp) // what is left of it is in the way of nobody
}

func (w *world) stop() {
	w.stopGateway()
	w.Stop()
}

func (w *world) stopGateway() {
	if w.gateway != nil {
		w.gateway.Stop(25 * time.Second)
		w.gateway = nil
	}
}

// policy of the fleet: what there is without one, but that nobody is called offline who is merely not running any more.
const policy = `{apiVersion: rollcall.dev/v1alpha1, kind: EndpointPolicy, metadata: {name: bench}, spec: {heartbeat: {intervalSeconds: 300, missed: 12}}}`

// enrol begins to have the fleet's agents enrol, once for all rows. They do not run afterwards.
func (b *bench) enrol(ctx context.Context) *enrolment {
	if b.enrolment != nil {
		return b.enrolment
	}
	ctx, cancel := context.WithCancel(ctx)
	e := &enrolment{cancel: cancel, done: make(chan struct{})}
	b.enrolment = e
	b.say("enrolling %d agents", b.agents)
	go func() {
		defer close(e.done)
		began := time.Now()
		if e.world, e.err = b.system(ctx, "fleet", "--csr-retention=1s", "--source-ca-file="+b.pki.CA); e.err == nil {
			e.err = e.world.enrol(ctx, b.agents)
		}
		if e.err == nil {
			b.say("%d agents enrolled in %.0f s", b.agents, time.Since(began).Seconds())
		}
	}()
	return e
}

// world is the fleet's, once all agents have enrolled.
func (b *bench) world(ctx context.Context) (*world, error) {
	e := b.enrol(ctx)
	select {
	case <-e.done:
	case <-ctx.Done():
		return nil, ctx.Err()
	}
	if e.err != nil {
		return nil, fmt.Errorf("enrol the fleet: %w", e.err)
	}
	b.fleetOf = e.world
	return e.world, nil
}

// system starts a control plane and a manager.
func (b *bench) system(ctx context.Context, name string, managerArgs ...string) (*world, error) {
	dir := filepath.Join(b.dir, name)
	if err := os.RemoveAll(dir); err != nil {
		return nil, err
	}
	s, err := rig.Start(ctx, filepath.Join(b.tmp, name), dir, b.bin, managerArgs...)
	if err != nil {
		return nil, err
	}
	return &world{System: s, states: filepath.Join(b.tmp, name, "agents")}, nil
}

func (w *world) enrol(ctx context.Context, n int) (err error) {
	if err := w.Apply(ctx, policy); err != nil {
		return err
	}
	if w.token, err = w.Token(ctx); err != nil {
		return err
	}
	if err := w.start(ctx, "--write-rate=500"); err != nil {
		return err
	}
	// a few at once are as fast as many, and whoever is told to come again does soon
	sim, err := w.Fleetsim(w.token, w.states, n, "--websocket=false", "--enroll-at-once=24", "--retry-max=5s")
	if err != nil {
		return err
	}
	err = rig.Enrolled(ctx, sim, w.states, n)
	if err == nil {
		err = w.gateway.Idle(ctx, time.Minute)
	}
	sim.Stop(30 * time.Second)
	w.stopGateway()
	return err
}

// start starts the gateway, where none runs.
func (w *world) start(ctx context.Context, args ...string) (err error) {
	if w.gateway == nil {
		w.gateway, err = w.Gateway(ctx, rig.Ready, args...)
	}
	return err
}

// crowd starts clients with the first count agents of the fleet.
func (b *bench) crowd(count int) (*rig.Crowd, error) {
	return rig.NewCrowd(b.bin, b.dir, b.fleetOf.states, b.pki.CA, 0, count, "127.0.1.1", false)
}

// missed takes the profile of what the gateway does in do, if a row has missed its goal, and adds where it is and what it begins with.
func (b *bench) missed(ctx context.Context, row *table.Row, g *rig.Gateway, kind rig.Profile, do func() error) error {
	if !row.Goal.Missed() {
		return nil
	}
	b.say("%s missed its goal: taking a profile", row.Key)
	file, top, err := g.Profile(ctx, row.Key, kind, do)
	if err != nil {
		return err
	}
	b.say("%s, from %s:\n%s", row.Key, file, top)
	row.Notes = append(row.Notes, "missed; profile: "+file+"; most of it: "+strings.Join(hottest(top, 3), ", "))
	return nil
}

// hottest are the names of the first n entries of pprof's list, with their own share.
func hottest(top string, n int) (names []string) {
	_, list, _ := strings.Cut(top, "cum%\n")
	for line := range strings.Lines(list) {
		f := strings.Fields(line)
		if len(f) < 6 || len(names) == n {
			break
		}
		names = append(names, strings.Join(f[5:], " ")+" "+f[1])
	}
	return names
}

// beside are the three kinds of server, the gateway first.
var beside = []drill.Kind{drill.Session, drill.Raw, drill.OpAMP}
