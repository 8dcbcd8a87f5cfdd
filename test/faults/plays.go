package main

import (
	"context"
	"fmt"
	"path/filepath"
	"time"

	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/utils/ptr"
	"sigs.k8s.io/controller-runtime/pkg/client"

	statev1 "github.com/rollcall-dev/rollcall/api/agent/state/v1"
	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/faults"
)

// soonSeconds an action has to be started whose deadline is waited for. It is sent for the first time only while 5 are left.
const soonSeconds = 8

// Each play brings an action to where a program comes by the cell's point, and goes on until all programs run again.

// once is an action that does what was asked.
func once(ctx context.Context, r *run) error { return r.createArmed(ctx, r.termination(5)) }

// long is one that takes two seconds, so that a heartbeat says that it runs.
func long(ctx context.Context, r *run) error { return r.createArmed(ctx, r.termination(2)) }

// failing finds nothing to end.
func failing(ctx context.Context, r *run) error {
	return r.createArmed(ctx, r.ofNobody())
}

// ofNobody is the end of a program that nobody runs.
func (r *run) ofNobody() v1alpha1.EndpointActionSpec {
	spec := r.termination(5)
	spec.TerminateProcess.Executable = v1alpha1.FilePath(filepath.Join(r.dir, "nobody"))
	return spec
}

// brief has its end, reported or not, soon.
func (r *run) brief() v1alpha1.EndpointActionSpec {
	spec := r.termination(5)
	spec.StartingDeadlineSeconds, spec.ActiveDeadlineSeconds = ptr.To[int32](soonSeconds), ptr.To[int32](1)
	return spec
}

// impossible is nothing that the agent can do.
func impossible(ctx context.Context, r *run) error {
	return r.createArmed(ctx, v1alpha1.EndpointActionSpec{Type: v1alpha1.RestoreFile, RestoreFile: &v1alpha1.RestoreFileParameters{QuarantineID: "q1"}})
}

func (r *run) createArmed(ctx context.Context, spec v1alpha1.EndpointActionSpec) error {
	return r.armed(ctx, func() error { return r.create(ctx, spec) })
}

func (r *run) cancelArmed(ctx context.Context) error {
	return r.armed(ctx, func() error { return r.cancel(ctx) })
}

// timeArmed has time itself bring the program by.
func (r *run) timeArmed(ctx context.Context) error { return r.armed(ctx, func() error { return nil }) }

// armed arms the point, does what brings the program by it, and has it die.
func (r *run) armed(ctx context.Context, do func() error) error {
	if err := r.arm(); err != nil {
		return err
	}
	if err := do(); err != nil {
		return err
	}
	return r.sprung(ctx)
}

// withdrawn is cancelled when it is about to be sent, and no one sends it: nothing may have left yet.
func withdrawn(ctx context.Context, r *run) error {
	return r.heldBack(ctx, r.termination(5), func() error { return r.cancel(ctx) })
}

// lapsed expires then.
func lapsed(ctx context.Context, r *run) error {
	spec := r.termination(5)
	spec.StartingDeadlineSeconds = ptr.To[int32](soonSeconds)
	return r.heldBack(ctx, spec, func() error { return nil })
}

// heldBack has the action end while the program is held, and some time pass for what may have left to do harm. Then the program dies.
func (r *run) heldBack(ctx context.Context, spec v1alpha1.EndpointActionSpec, end func() error) error {
	if err := r.endsHeld(ctx, spec, end); err != nil {
		return err
	}
	if err := pause(ctx, 2*answerWait); err != nil {
		return err
	}
	return r.sprung(ctx)
}

// endsHeld has the action end while the program is held.
func (r *run) endsHeld(ctx context.Context, spec v1alpha1.EndpointActionSpec, end func() error) error {
	if err := r.arm(); err != nil {
		return err
	}
	if err := r.create(ctx, spec); err != nil {
		return err
	}
	if err := r.reached(ctx, r.at, patience); err != nil {
		return err
	}
	if err := end(); err != nil {
		return err
	}
	return r.ends(ctx)
}

// suspended waits until its endpoint is active again.
func suspended(ctx context.Context, r *run) error {
	if err := r.lifecycle(ctx, v1alpha1.LifecycleSuspended); err != nil {
		return err
	}
	if err := once(ctx, r); err != nil {
		return err
	}
	return r.lifecycle(ctx, v1alpha1.LifecycleActive)
}

// takenBack is cancelled while its agent is away.
func takenBack(ctx context.Context, r *run) error {
	if err := r.away(ctx, r.termination(5)); err != nil {
		return err
	}
	return r.cancelArmed(ctx)
}

// away has the action admitted while its agent is not there.
func (r *run) away(ctx context.Context, spec v1alpha1.EndpointActionSpec) error {
	r.machine.Kill()
	if err := r.create(ctx, spec); err != nil {
		return err
	}
	return r.sees(ctx, "the action is admitted", patience, admitted)
}

func admitted(a *v1alpha1.EndpointAction) bool { return a.Status.Admission != nil }

// expiring is not fetched in time.
func expiring(ctx context.Context, r *run) error {
	spec := r.termination(5)
	spec.StartingDeadlineSeconds = ptr.To[int32](5)
	if err := r.away(ctx, spec); err != nil {
		return err
	}
	if err := pause(ctx, time.Until(r.action.Status.Admission.StartingDeadline.Add(-time.Second))); err != nil {
		return err
	}
	return r.timeArmed(ctx)
}

// stoppedMidway is cancelled while it runs.
func stoppedMidway(ctx context.Context, r *run) error {
	if err := r.underWay(ctx); err != nil {
		return err
	}
	return r.cancelArmed(ctx)
}

// underWay has an action run that takes its time.
func (r *run) underWay(ctx context.Context) error {
	if err := r.create(ctx, r.termination(30)); err != nil {
		return err
	}
	return r.sees(ctx, "the action runs", patience, running)
}

func running(a *v1alpha1.EndpointAction) bool { return a.Status.Phase == v1alpha1.ActionRunning }

// lost has the agent die when it has got the action and nothing of it is on its disk.
func (r *run) lost(ctx context.Context, spec v1alpha1.EndpointActionSpec) error {
	return r.agentDies(ctx, faults.Point(faults.WhenBefore, "RECEIVED"), spec)
}

// silent has the agent die when it has the action, and has told nobody.
func (r *run) silent(ctx context.Context) error {
	if err := r.agentDies(ctx, faults.Point(faults.WhenAfter, "RECEIVED"), r.brief()); err != nil {
		return err
	}
	return r.sees(ctx, "the action is sent", patience, sent)
}

// silentUntilDue is silent until just before anybody must have reported.
func (r *run) silentUntilDue(ctx context.Context) error {
	if err := r.silent(ctx); err != nil {
		return err
	}
	return pause(ctx, time.Until(r.action.Status.Admission.ReportDeadline.Add(-time.Second)))
}

// agentDies has the agent die at a point.
func (r *run) agentDies(ctx context.Context, point string, spec v1alpha1.EndpointActionSpec) error {
	if err := faults.Arm(r.machine.fault, faults.Order{Point: point}); err != nil {
		return err
	}
	if err := r.create(ctx, spec); err != nil {
		return err
	}
	if err := r.reached(ctx, agent, min(patience, time.Duration(*r.action.Spec.StartingDeadlineSeconds)*time.Second)); err != nil {
		return err
	}
	<-r.machine.Done()
	return nil
}

// comesBack arms the point and starts the agent.
func (r *run) comesBack(ctx context.Context) error {
	if err := r.arm(); err != nil {
		return err
	}
	if err := r.machine.start(); err != nil {
		return err
	}
	return r.sprung(ctx)
}

// repeated is sent a second time.
func repeated(ctx context.Context, r *run) error {
	if err := r.lost(ctx, r.termination(5)); err != nil {
		return err
	}
	return r.comesBack(ctx)
}

// cancelFirst is cancelled after it was sent, and the cancel is what its agent gets.
func cancelFirst(ctx context.Context, r *run) error {
	if err := r.lost(ctx, r.termination(5)); err != nil {
		return err
	}
	if err := r.sees(ctx, "the action is sent", patience, sent); err != nil {
		return err
	}
	if err := r.cancel(ctx); err != nil {
		return err
	}
	if err := r.sees(ctx, "the cancel is signed", patience, func(a *v1alpha1.EndpointAction) bool { return a.Status.Cancellation != nil }); err != nil {
		return err
	}
	return r.comesBack(ctx)
}

func sent(a *v1alpha1.EndpointAction) bool { return a.Status.Delivery != nil }

// tooLate reaches its agent when it must not begin any more.
func tooLate(ctx context.Context, r *run) error {
	if err := r.lost(ctx, r.brief()); err != nil {
		return err
	}
	if err := r.sees(ctx, "the action is sent", patience, sent); err != nil {
		return err
	}
	if err := pause(ctx, time.Until(r.action.Status.Admission.StartingDeadline.Time)); err != nil {
		return err
	}
	return r.comesBack(ctx)
}

// unheard is reported by nobody in time.
func unheard(ctx context.Context, r *run) error {
	if err := r.silentUntilDue(ctx); err != nil {
		return err
	}
	if err := r.timeArmed(ctx); err != nil {
		return err
	}
	return r.ends(ctx) // before the agent is there again
}

// overtakenByResult is reported when the manager is about to write that nobody did.
func overtakenByResult(ctx context.Context, r *run) error {
	if err := r.silentUntilDue(ctx); err != nil {
		return err
	}
	if err := r.arm(); err != nil {
		return err
	}
	if err := r.reached(ctx, r.at, patience); err != nil {
		return err
	}
	if err := r.machine.start(); err != nil {
		return err
	}
	if err := r.ends(ctx); err != nil {
		return err
	}
	return r.sprung(ctx)
}

// overtakenByTime has ended when the gateway is about to write the result.
func overtakenByTime(ctx context.Context, r *run) error {
	if err := r.endsHeld(ctx, r.brief(), func() error { return nil }); err != nil {
		return err
	}
	return r.sprung(ctx)
}

// reportedLate is reported after its end.
func reportedLate(ctx context.Context, r *run) error {
	if err := r.silent(ctx); err != nil {
		return err
	}
	if err := r.ends(ctx); err != nil {
		return err
	}
	return r.comesBack(ctx)
}

// interrupted is one in the middle of which the agent dies.
func interrupted(ctx context.Context, r *run) error {
	if err := r.agentDies(ctx, faults.Point(faults.WhenAfter, "signal"), r.termination(5)); err != nil {
		return err
	}
	return r.comesBack(ctx)
}

// forgotten is one that runs, and that its agent does not know any more.
func forgotten(ctx context.Context, r *run) error {
	if err := r.underWay(ctx); err != nil {
		return err
	}
	r.machine.Kill()
	if err := r.machine.forget(string(r.action.UID)); err != nil {
		return err
	}
	return r.comesBack(ctx)
}

// told is one of which a heartbeat has said that it runs.
func told(ctx context.Context, r *run) error {
	if err := r.create(ctx, r.termination(30)); err != nil {
		return err
	}
	err := until(ctx, patience, "the action is begun", func() (bool, error) {
		record, err := r.machine.record(string(r.action.UID))
		return record.GetState() == statev1.JournalState_JOURNAL_STATE_STARTED, err
	})
	if err != nil {
		return err
	}
	return r.timeArmed(ctx)
}

// outlived is deleted when it has ended.
func outlived(ctx context.Context, r *run) error {
	if err := r.create(ctx, r.termination(5)); err != nil {
		return err
	}
	if err := r.ends(ctx); err != nil {
		return err
	}
	if err := r.arm(); err != nil {
		return err
	}
	as := r.action.DeepCopy()
	if err := r.change(ctx, func(s *v1alpha1.EndpointActionSpec) { s.TTLSecondsAfterFinished = ptr.To[int32](0) }); err != nil {
		return err
	}
	r.action = as
	if err := r.sprung(ctx); err != nil {
		return err
	}
	return until(ctx, patience, "the action is deleted", func() (bool, error) {
		err := r.person.Get(ctx, client.ObjectKeyFromObject(r.action), &v1alpha1.EndpointAction{})
		if apierrors.IsNotFound(err) {
			return true, nil
		}
		return false, err
	})
}

// many is an action on all machines of the channel, one after the other.
func (r *run) many(spec v1alpha1.EndpointActionSpec) v1alpha1.EndpointActionSpec {
	spec.Selector = &v1alpha1.EndpointSelector{MatchLabels: map[string]v1alpha1.LabelValue{labelChannel: v1alpha1.LabelValue(r.channel)}}
	spec.MaxParallel = ptr.To[int32](1)
	return spec
}

// manyOnce does it on each.
func manyOnce(ctx context.Context, r *run) error { return r.createArmed(ctx, r.many(r.termination(5))) }

// manyFailing finds nothing to end on any.
func manyFailing(ctx context.Context, r *run) error {
	return r.createArmed(ctx, r.many(r.ofNobody()))
}

// manyStopped is cancelled while the first is at it.
func manyStopped(ctx context.Context, r *run) error {
	if err := r.create(ctx, r.many(r.termination(30))); err != nil {
		return err
	}
	err := until(ctx, patience, "a child is at it", func() (bool, error) {
		n, err := r.victim.terms()
		return n > 0, err
	})
	if err != nil {
		return err
	}
	if err := r.arm(); err != nil {
		return err
	}
	if err := r.sees(ctx, "the action exists", patience, func(*v1alpha1.EndpointAction) bool { return true }); err != nil {
		return err
	}
	if err := r.cancel(ctx); err != nil {
		return fmt.Errorf("cancel: %w", err)
	}
	return r.sprung(ctx)
}

// overdue is on many, and past its starting deadline before the manager has made the first child.
func overdue(ctx context.Context, r *run) error {
	if err := r.arm(); err != nil { // it has the turn; the point is named later
		return err
	}
	o := faults.Order{Point: faults.Point(faults.WhenBefore, "begin"), Of: r.name, Hold: true}
	if err := faults.Arm(r.managerFault, o); err != nil {
		return err
	}
	spec := r.many(r.termination(5))
	const soonest = 5 // seconds
	spec.StartingDeadlineSeconds = ptr.To[int32](soonest)
	if err := r.create(ctx, spec); err != nil {
		return err
	}
	if err := r.reached(ctx, manager, patience); err != nil {
		return err
	}
	if err := pause(ctx, time.Until(r.action.CreationTimestamp.Add((soonest+1)*time.Second))); err != nil {
		return err
	}
	if err := faults.Arm(r.managerFault, faults.Order{Point: r.point, Of: r.name}); err != nil {
		return err
	}
	return r.sprung(ctx)
}
