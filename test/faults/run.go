package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"path/filepath"
	"strings"
	"sync"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	statev1 "github.com/rollcall-dev/rollcall/api/agent/state/v1"
	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/faults"
)

const (
	// startingSeconds an action may wait to be started, long enough for an API server to be started again meanwhile; activeSeconds it may run.
	startingSeconds, activeSeconds = 60, 40
	// lateness is how much later than its report deadline the end of an action may be written: the manager may just be starting.
	lateness = 10 * time.Second
	// afterEnd of an action its last point must be reached.
	afterEnd = 5 * time.Second
	// maxPause is how long a program stays away that was killed.
	maxPause = 150 * time.Millisecond
)

// errMissed: no program came by the point.
var errMissed = errors.New("nobody came by the point")

// run is one action on a lane, in which one program dies once.
type run struct {
	*lane
	cell
	channel v1alpha1.Channel
	name    string
	random  *rand.Rand
	machine *machine
	victim  *victim
	action  *v1alpha1.EndpointAction
	turn    bool // it has the manager's
}

// newRun has everything ready for it.
func newRun(ctx context.Context, l *lane, c cell, channel v1alpha1.Channel, name string, seed uint64) (*run, error) {
	r := &run{lane: l, cell: c, channel: channel, name: name, random: rand.New(rand.NewPCG(seed, 0)), machine: l.machines[channel][0]}
	if c.dies == apiServer { // whoever has seen it die before would take ever longer to look again
		l.manager.Kill()
		l.gateway.Kill()
		if err := l.startManager(ctx); err != nil {
			return nil, err
		}
	}
	if err := l.ready(ctx, channel); err != nil {
		return nil, err
	}
	var err error
	r.victim, err = startVictim(l.system.Bin, filepath.Join(l.dir, "victims", name), c.stubborn)
	return r, err
}

// play plays the cell, and returns what there is to judge by. errMissed says that it was not what it should be.
func (r *run) play(ctx context.Context) (*evidence, error) {
	defer r.passTurn()
	if err := r.cell.play(ctx, r); err != nil {
		return nil, err
	}
	for _, m := range r.machines[r.channel] {
		if !m.up() {
			if err := m.start(); err != nil {
				return nil, err
			}
		}
	}
	return r.evidence(ctx)
}

// faultFile of a program.
func (r *run) faultFile(p program) string {
	switch p {
	case manager:
		return r.managerFault
	case gateway:
		return r.gatewayFault
	default:
		return r.machine.fault
	}
}

// arm has the program wait at the cell's point for this run's action.
func (r *run) arm() error {
	if r.at == manager {
		r.plane.turn.Lock()
		r.turn = true
	}
	o := faults.Order{Point: r.point, Of: r.name, Hold: r.at != r.dies || r.held}
	if r.at == agent { // it does not know the name
		o.Of = ""
	}
	return faults.Arm(r.faultFile(r.at), o)
}

func (r *run) passTurn() {
	if r.turn {
		_ = errors.Join(faults.Disarm(r.managerFault), faults.Release(r.managerFault))
		r.turn = false
		r.plane.turn.Unlock()
	}
}

// reached waits until a program has come by its point, unless the action ends and nobody does.
func (r *run) reached(ctx context.Context, p program, patience time.Duration) error {
	there := func() (bool, error) { return faults.Reached(r.faultFile(p)), nil }
	giveUp, cancel := context.WithCancel(ctx)
	defer cancel()
	var over sync.WaitGroup
	if !ended(r.action) {
		as := *r
		over.Go(func() {
			if as.ends(giveUp) == nil && pause(giveUp, afterEnd) == nil {
				cancel()
			}
		})
	}
	err := until(giveUp, patience, "the point is reached", there)
	cancel()
	over.Wait()
	if err != nil {
		return errors.Join(errMissed, err)
	}
	return nil
}

// sprung waits until a program has come by the cell's point, has the one that is to die do so, and starts it again.
func (r *run) sprung(ctx context.Context) error {
	if err := r.reached(ctx, r.at, patience); err != nil {
		return err
	}
	if err := r.die(ctx); err != nil {
		return err
	}
	away, early := time.Duration(r.random.Int64N(int64(maxPause))), r.random.IntN(2) == 0
	if early { // whoever was held goes on without the one that has died
		if err := faults.Release(r.faultFile(r.at)); err != nil {
			return err
		}
	}
	if err := pause(ctx, away); err != nil {
		return err
	}
	if err := r.revive(ctx); err != nil {
		return err
	}
	defer r.passTurn()
	return faults.Release(r.faultFile(r.at))
}

// die has the program die, unless it does so by itself.
func (r *run) die(ctx context.Context) error {
	switch r.dies {
	case apiServer:
		return r.api.ControlPlane.KillAPIServer(ctx)
	case nobody:
		return nil
	}
	p := map[program]interface {
		Kill()
		Done() <-chan struct{}
	}{manager: r.manager, gateway: r.gateway, agent: r.machine}[r.dies]
	if r.at != r.dies || r.held {
		p.Kill()
		return nil
	}
	select {
	case <-p.Done():
		return nil
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(patience):
		return fmt.Errorf("the %s does not die", r.dies)
	}
}

// revive starts the program that has died.
func (r *run) revive(ctx context.Context) error {
	switch r.dies {
	case manager:
		return r.startManager(ctx)
	case gateway:
		return r.startGateway(ctx)
	case agent:
		return r.machine.start()
	case apiServer:
		return r.api.ControlPlane.StartAPIServer(ctx)
	default:
		return nil
	}
}

// create creates the action for the machine, or for all of the channel if the spec has a selector.
func (r *run) create(ctx context.Context, spec v1alpha1.EndpointActionSpec) error {
	if spec.Selector == nil {
		spec.EndpointName = v1alpha1.LocalName(r.machine.endpoint)
	}
	if spec.StartingDeadlineSeconds == nil {
		spec.StartingDeadlineSeconds = ptr.To[int32](startingSeconds)
	}
	if spec.ActiveDeadlineSeconds == nil {
		spec.ActiveDeadlineSeconds = ptr.To[int32](activeSeconds)
	}
	r.action = &v1alpha1.EndpointAction{ObjectMeta: r.meta(r.name), Spec: spec}
	return r.person.Create(ctx, r.action)
}

// termination is the action that ends the victim.
func (r *run) termination(grace int32) v1alpha1.EndpointActionSpec {
	return v1alpha1.EndpointActionSpec{Type: v1alpha1.TerminateProcess, TerminateProcess: &v1alpha1.TerminateProcessParameters{
		Executable: v1alpha1.FilePath(r.victim.path), GracePeriodSeconds: ptr.To(grace),
	}}
}

// sees waits until the person sees something of the action.
func (r *run) sees(ctx context.Context, what string, patience time.Duration, is func(*v1alpha1.EndpointAction) bool) error {
	return until(ctx, patience, what, func() (bool, error) {
		a := &v1alpha1.EndpointAction{}
		if err := r.person.Get(ctx, client.ObjectKeyFromObject(r.action), a); err != nil {
			return false, err
		}
		r.action = a
		return is(a), nil
	})
}

// ends waits for the action's end, as long as it may take.
func (r *run) ends(ctx context.Context) error {
	seconds := *r.action.Spec.StartingDeadlineSeconds + *r.action.Spec.ActiveDeadlineSeconds
	deadline := r.action.CreationTimestamp.Add(time.Duration(seconds)*time.Second + reportMargin + lateness)
	return r.sees(ctx, "the action has ended", time.Until(deadline), ended)
}

func ended(a *v1alpha1.EndpointAction) bool { return a.Status.FinishTime != nil }

// change changes the spec of the action.
func (r *run) change(ctx context.Context, change func(*v1alpha1.EndpointActionSpec)) error {
	before := r.action.DeepCopy()
	change(&r.action.Spec)
	return r.person.Patch(ctx, r.action, client.MergeFrom(before))
}

func (r *run) cancel(ctx context.Context) error {
	return r.change(ctx, func(s *v1alpha1.EndpointActionSpec) { s.Cancel = true })
}

// lifecycle sets that of the machine's endpoint.
func (r *run) lifecycle(ctx context.Context, to v1alpha1.EndpointLifecycle) error {
	e := &v1alpha1.Endpoint{ObjectMeta: r.meta(r.machine.endpoint)}
	return r.person.Patch(ctx, e, client.RawPatch("application/merge-patch+json", fmt.Appendf(nil, `{"spec":{"lifecycle":%q}}`, to)))
}

// evidence waits until the action has ended and the agents have nothing more to tell of it, and gathers what there is to judge by.
func (r *run) evidence(ctx context.Context) (*evidence, error) {
	e := &evidence{channel: r.channel, ends: r.cell.ends, most: 1}
	if !ended(r.action) {
		if err := r.ends(ctx); err != nil && ctx.Err() != nil {
			return nil, err
		}
	}
	e.action = r.action
	if r.action.Spec.Selector != nil {
		e.most = len(r.machines[r.channel])
		if err := r.children(ctx, e); err != nil {
			return nil, err
		}
	}
	// What does not settle is for the judge.
	err := until(ctx, patience, "the agents have told", func() (bool, error) { return r.told(ctx, e) })
	if err != nil && (ctx.Err() != nil || len(e.records) == 0) {
		return nil, err
	}
	e.terms, err = r.victim.terms()
	return e, err
}

func (r *run) children(ctx context.Context, e *evidence) error {
	var all v1alpha1.EndpointActionList
	err := r.person.List(ctx, &all, client.InNamespace(r.lane.name), client.MatchingLabels{v1alpha1.LabelParent: string(r.action.UID)})
	for i := range all.Items {
		e.children = append(e.children, &all.Items[i])
	}
	return err
}

// told reads what the agents' journals say, and after that the actions again, which have at least as much. It tells whether nothing is left to be told.
func (r *run) told(ctx context.Context, e *evidence) (bool, error) {
	singles := e.singles()
	e.records = make([]*statev1.JournalRecord, len(singles))
	all := true
	for i, a := range singles {
		for _, m := range r.machines[r.channel] {
			if m.endpoint != string(a.Spec.EndpointName) {
				continue
			}
			var err error
			if e.records[i], err = m.record(string(a.UID)); err != nil {
				return false, err
			}
		}
		err := r.person.Get(ctx, client.ObjectKeyFromObject(a), a)
		if err != nil && (!apierrors.IsNotFound(err) || !r.deleted) {
			return false, err
		}
		all = all && settled(a, e.records[i])
	}
	return all, nil
}

// lower is a word as names of objects take it.
func lower[S ~string](s S) string { return strings.ToLower(string(s)) }
