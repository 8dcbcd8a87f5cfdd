package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"math/rand/v2"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"k8s.io/utils/ptr"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/faults"
)

// races are actions that are cancelled, or expire, at the moment at which they are sent. Nothing dies.
type races struct {
	*suite
	number int // of races that have begun
	// outcomes by the kind of race, with how often each was.
	outcomes map[string]map[string]int
	wrong    []string
}

const (
	// cancelWithin is the longest time from the creation of an action to its cancel; over heartbeats, which come every second.
	cancelWithin, cancelWithinHeartbeat = 50 * time.Millisecond, time.Second
	// expiringSeconds an action has to be started; it is sent for the first time only while 5 are left.
	expiringSeconds = 7
	// nearDeadline, half of it before and half after, the gateway writes that an action is sent. An agent needs some of that to begin.
	nearDeadline = 200 * time.Millisecond
	// together expire as many actions as a lane has machines.
	together = 4
)

// race does them, as many expiries as cancels, and prints what came of them.
func (s *suite) race(ctx context.Context, out io.Writer) error {
	r := &races{suite: s, outcomes: map[string]map[string]int{}}
	s.say("%d cancels, seed %d", s.races, s.seed)
	err := r.all(ctx, s.races, func(l *lane, channel v1alpha1.Channel, random *rand.Rand) (racer, error) {
		return newCanceller(l, channel, random)
	})
	rounds := (s.races + together - 1) / together
	s.say("%d expiries", rounds*together)
	if err == nil {
		r.number = 0
		err = r.all(ctx, rounds, func(l *lane, channel v1alpha1.Channel, random *rand.Rand) (racer, error) {
			if channel != channels[0] { // one at a time is at the gateway of a lane
				return nil, nil //nolint:nilnil // there is none, which is no error
			}
			return newExpirer(l, random)
		})
	}
	fmt.Fprintf(out, "\n%-25s  %-60s  %s\n", "race", "end", "times")
	for _, kind := range slices.Sorted(maps.Keys(r.outcomes)) {
		for _, outcome := range slices.Sorted(maps.Keys(r.outcomes[kind])) {
			fmt.Fprintf(out, "%-25s  %-60s  %d\n", kind, outcome, r.outcomes[kind][outcome])
		}
	}
	for _, wrong := range r.wrong {
		fmt.Fprintln(out, "WRONG ", wrong)
	}
	if len(r.wrong) > 0 {
		err = errors.Join(err, fmt.Errorf("%d races went wrong", len(r.wrong)))
	}
	return err
}

// racer does a few races at a time, one for each machine that it has.
type racer interface {
	race(ctx context.Context, name string) (kind string, all []*evidence, err error)
	stop() error
}

// all has every lane race on every channel.
func (r *races) all(ctx context.Context, count int, start func(*lane, v1alpha1.Channel, *rand.Rand) (racer, error)) error {
	var failures []error
	var group sync.WaitGroup
	for i, l := range r.lanes {
		for k, channel := range channels {
			group.Go(func() {
				err := r.one(ctx, count, func() (racer, error) {
					return start(l, channel, rand.New(rand.NewPCG(r.seed, uint64(2*i+k))))
				})
				r.mu.Lock()
				defer r.mu.Unlock()
				failures = append(failures, err)
			})
		}
	}
	group.Wait()
	return errors.Join(failures...)
}

func (r *races) one(ctx context.Context, count int, start func() (racer, error)) error {
	racer, err := start()
	if err != nil || racer == nil {
		return err
	}
	for {
		name, more := r.next(count)
		if !more || ctx.Err() != nil {
			return racer.stop()
		}
		kind, all, err := racer.race(ctx, name)
		if err != nil {
			return errors.Join(fmt.Errorf("%s: %w", name, err), racer.stop())
		}
		for _, e := range all {
			r.note(kind, e)
		}
	}
}

func (r *races) next(count int) (name string, more bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.number++
	return fmt.Sprintf("race-%d", r.number), r.number <= count
}

func (r *races) note(kind string, e *evidence) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.outcomes[kind] == nil {
		r.outcomes[kind] = map[string]int{}
	}
	r.outcomes[kind][outcomeOf(&e.action.Status)]++
	for _, wrong := range e.judge() {
		r.wrong = append(r.wrong, fmt.Sprintf("%s %s: %s", kind, e.action.Name, wrong))
	}
}

// outcomeOf is who won.
func outcomeOf(s *v1alpha1.EndpointActionStatus) string {
	switch {
	case s.Delivery == nil:
		return fmt.Sprintf("%s: it was never sent", s.Phase)
	case s.Delivery.StartedTime == nil:
		return fmt.Sprintf("%s: it was sent, and the agent did not begin", s.Phase)
	case s.Phase == v1alpha1.ActionCancelled:
		return fmt.Sprintf("%s: the agent had begun, and stopped", s.Phase)
	default:
		return fmt.Sprintf("%s: it was sent", s.Phase)
	}
}

// target is a machine with a victim of its own.
type target struct {
	*machine
	victim *victim
	terms  int // that were counted before
}

func newTarget(l *lane, m *machine) (*target, error) {
	v, err := startVictim(l.system.Bin, filepath.Join(m.dir, "..", "race"), false)
	return &target{machine: m, victim: v}, err
}

// runOn is an action on a target.
func (t *target) runOn(l *lane, name string, ends ...v1alpha1.ActionPhase) *run {
	return &run{lane: l, cell: cell{ends: ends}, channel: t.channel, name: name, machine: t.machine, victim: t.victim}
}

// evidence is that of a run, with the TERMs since the last.
func (t *target) evidence(ctx context.Context, r *run) (*evidence, error) {
	e, err := r.evidence(ctx)
	if err != nil {
		return nil, err
	}
	all := e.terms
	e.terms -= t.terms
	t.terms = all
	return e, t.victim.standing(ctx)
}

// canceller cancels actions while they are sent.
type canceller struct {
	lane   *lane
	target *target
	random *rand.Rand
}

func newCanceller(l *lane, channel v1alpha1.Channel, random *rand.Rand) (*canceller, error) {
	t, err := newTarget(l, l.machines[channel][0])
	return &canceller{l, t, random}, err
}

func (c *canceller) race(ctx context.Context, name string) (kind string, all []*evidence, err error) {
	r := c.target.runOn(c.lane, name, succeeded, cancelled)
	within := cancelWithin
	if r.channel == v1alpha1.ChannelHeartbeat {
		within = cancelWithinHeartbeat
	}
	if err := r.create(ctx, r.termination(5)); err != nil {
		return "", nil, err
	}
	if err := pause(ctx, time.Duration(c.random.Int64N(int64(within)))); err != nil {
		return "", nil, err
	}
	if err := r.cancel(ctx); err != nil {
		return "", nil, err
	}
	e, err := c.target.evidence(ctx, r)
	return "cancel, " + string(r.channel), []*evidence{e}, err
}

func (c *canceller) stop() error {
	_, err := c.target.victim.stop()
	return err
}

// expirer has actions written as sent when they are about to expire. The gateway is held before it writes: it would not begin to so late.
type expirer struct {
	lane    *lane
	targets []*target
	random  *rand.Rand
}

func newExpirer(l *lane, random *rand.Rand) (*expirer, error) {
	x := &expirer{lane: l, random: random}
	for _, m := range l.all() {
		t, err := newTarget(l, m)
		if err != nil {
			return x, err
		}
		x.targets = append(x.targets, t)
	}
	return x, nil
}

func (x *expirer) race(ctx context.Context, name string) (kind string, all []*evidence, err error) {
	if err := faults.Arm(x.lane.gatewayFault, faults.Order{Point: faults.Point(faults.WhenBefore, "8"), All: true}); err != nil {
		return "", nil, err
	}
	var runs []*run
	for i, t := range x.targets {
		r := t.runOn(x.lane, fmt.Sprintf("expiry-%s-%d", name, i), succeeded, expired)
		spec := r.termination(5)
		spec.StartingDeadlineSeconds, spec.ActiveDeadlineSeconds = ptr.To[int32](expiringSeconds), ptr.To[int32](5)
		if err := r.create(ctx, spec); err != nil {
			return "", nil, err
		}
		runs = append(runs, r)
	}
	deadline := runs[0].action.CreationTimestamp.Add(expiringSeconds * time.Second)
	at := deadline.Add(nearDeadline/2 - time.Duration(x.random.Int64N(int64(nearDeadline))))
	if err := pause(ctx, time.Until(at)); err != nil {
		return "", nil, err
	}
	if err := faults.Disarm(x.lane.gatewayFault); err != nil {
		return "", nil, err
	}
	for i, t := range x.targets {
		e, err := t.evidence(ctx, runs[i])
		if err != nil {
			return "", nil, err
		}
		all = append(all, e)
	}
	return "expiry", all, nil
}

func (x *expirer) stop() error {
	var failures []error
	for _, t := range x.targets {
		_, err := t.victim.stop()
		failures = append(failures, err)
	}
	return errors.Join(failures...)
}
