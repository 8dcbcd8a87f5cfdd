package action

import (
	"fmt"
	"strings"
	"time"

	"k8s.io/apimachinery/pkg/api/equality"
	"k8s.io/apimachinery/pkg/api/meta"
	"k8s.io/utils/ptr"

	"github.com/rollcall-dev/rollcall/api/v1alpha1"
)

const (
	// maxFailures of children are named in the parent.
	maxFailures = 20
	// defaultParallel children are open at a time.
	defaultParallel = 100
)

// ParentLook is the manager's at an action with a selector.
type ParentLook struct {
	Now time.Time
	// Children that exist, in the order of their names. All says that there is one for each endpoint that the selector matched; until then
	// nothing is counted. Matched is how many that are. Once the total is fixed, All says that whoever is missing was deleted, and is not just
	// not seen yet.
	Children []*v1alpha1.EndpointAction
	All      bool
	Matched  int
}

// NextParent is the status of an action with a selector: rows P1 to P7. released is raised in it before a child that it lets in is admitted.
func NextParent(a *v1alpha1.EndpointAction, l ParentLook) (status *v1alpha1.EndpointActionStatus, row Arrow, err error) {
	s := begin(a)
	switch {
	case s.single():
		return nil, None, unfit("it has no selector")
	case Ended(s.to) || s.DeletionTimestamp != nil:
	case s.in(v1alpha1.ActionPending):
		row = s.fanOut(l)
	case s.in(v1alpha1.ActionRunning) && s.to.Children != nil:
		row = s.follow(l)
	default:
		return nil, None, unfit("it is %s, and has a selector", s.to.Phase)
	}
	return s.to, s.observed(row), nil
}

// fanOut decides until all children exist. None of them is admitted before. One that has begun to make them goes on, however long that takes: each
// has its own deadline.
func (s *step) fanOut(l ParentLook) Arrow {
	switch {
	case s.Spec.Cancel:
		if c := count(l.Children, len(l.Children)); ended(c) == c.Total {
			return s.endParent(l.Now, c)
		}
		return s.drain(l.Now, ReasonCancelRequested)
	case len(l.Children) == 0 && !l.Now.Before(startingDeadline(s.EndpointAction, l.Now)):
		s.end(l.Now, v1alpha1.ActionExpired, ReasonDeadlineExceeded, "its starting deadline had passed before it began: no endpoint was asked")
		return "P7"
	case !l.All:
		return None
	case l.Matched == 0:
		s.to.Children = &v1alpha1.ActionChildren{}
		s.end(l.Now, v1alpha1.ActionSucceeded, ReasonNoMatch, "no endpoint matches")
		return "P4"
	}
	s.to.Phase, s.to.Children = v1alpha1.ActionRunning, count(l.Children, max(l.Matched, len(l.Children)))
	s.release(l.Children)
	s.tell(l.Now, ReasonFanOut)
	return "P1"
}

// follow decides while the children are at work.
func (s *step) follow(l ParentLook) Arrow {
	was := s.to.Children
	if len(l.Children) < int(was.Total) && !l.All {
		return None
	}
	// A manager that had not seen yet that another leads may have made more of them: they are as good.
	s.to.Children = count(l.Children, max(int(was.Total), len(l.Children)))
	s.to.Children.Released = was.Released
	switch {
	case ended(s.to.Children) == s.to.Children.Total:
		return s.endParent(l.Now, s.to.Children)
	case s.Spec.Cancel:
		return s.keepDraining(l.Now, was, ReasonCancelRequested)
	case tooManyFailed(&s.Spec, s.to):
		return s.keepDraining(l.Now, was, ReasonTooManyFailures)
	case s.release(l.Children):
		s.tell(l.Now, ReasonFanOut)
		return "P2"
	default:
		return s.advance(l.Now, was, ReasonFanOut)
	}
}

// release lets in as many children as may be open, and tells whether any. Who was let in and is held for something else is open too; who was
// deleted had its turn.
func (s *step) release(children []*v1alpha1.EndpointAction) bool {
	c, open, before := s.to.Children, 0, s.to.Children.Released
	missing := int(c.Total) - len(children)
	busy := func(turn int32) int {
		if i := int(turn) - missing; i >= 0 && !Ended(&children[i].Status) {
			return 1
		}
		return 0
	}
	for turn := range c.Released {
		open += busy(turn)
	}
	for limit := int(ptr.Deref(s.Spec.MaxParallel, defaultParallel)); c.Released < c.Total && open < limit; c.Released++ {
		open += busy(c.Released)
	}
	return c.Released > before
}

// keepDraining is row P3 when it begins, and progress after that.
func (s *step) keepDraining(now time.Time, was *v1alpha1.ActionChildren, reason string) Arrow {
	if !waitsFor(s.to, reason) {
		return s.drain(now, reason)
	}
	return s.advance(now, was, reason)
}

func (s *step) drain(now time.Time, reason string) Arrow {
	if waitsFor(s.to, reason) {
		return None
	}
	s.tell(now, reason)
	return "P3"
}

// advance tells how far it is, once in a while.
func (s *step) advance(now time.Time, was *v1alpha1.ActionChildren, reason string) Arrow {
	if equality.Semantic.DeepEqual(was, s.to.Children) || freshly(s.to, now, parentPace) {
		s.to.Children = was
		return None
	}
	s.tell(now, reason)
	return "P2"
}

// tell says how far the children are.
func (s *step) tell(now time.Time, reason string) {
	message := map[string]string{
		ReasonFanOut:          "at work",
		ReasonCancelRequested: "cancel was asked for; no more are sent",
		ReasonTooManyFailures: "too many have failed; no more are sent",
	}[reason]
	if c := s.to.Children; c != nil {
		s.to.Progress = progressOf(c)
		message = fmt.Sprintf("%s: %s", tally(c), message)
	}
	s.wait(now, reason, message)
}

// endParent is rows P4 to P6.
func (s *step) endParent(now time.Time, c *v1alpha1.ActionChildren) Arrow {
	s.to.Children, s.to.Progress = c, progressOf(c)
	switch {
	case s.Spec.Cancel && c.Total == 0:
		s.end(now, v1alpha1.ActionCancelled, ReasonCancelledByUser, "cancelled before there was a child")
		return "P6"
	case s.Spec.Cancel:
		s.end(now, v1alpha1.ActionCancelled, ReasonCancelledByUser, "cancelled: "+tally(c))
		return "P6"
	case c.Failed > 0:
		reason := ReasonChildrenFailed
		if tooManyFailed(&s.Spec, s.to) {
			reason = ReasonTooManyFailures
		}
		s.end(now, v1alpha1.ActionFailed, reason, tally(c)+": "+failed(c))
		return "P5"
	default:
		s.end(now, v1alpha1.ActionSucceeded, ReasonDone, tally(c))
		return "P4"
	}
}

// tooManyFailed tells whether a parent lets no more children in for those that have failed. Once it has stopped, it does not go on.
func tooManyFailed(spec *v1alpha1.EndpointActionSpec, status *v1alpha1.EndpointActionStatus) bool {
	return waitsFor(status, ReasonTooManyFailures) || spec.MaxFailures != nil && status.Children != nil && status.Children.Failed > *spec.MaxFailures
}

// count counts the children of a total. Who is missing was deleted, which is to cancel it.
func count(children []*v1alpha1.EndpointAction, total int) *v1alpha1.ActionChildren {
	c := &v1alpha1.ActionChildren{Total: int32(total)} //nolint:gosec // no namespace holds more
	c.Cancelled = c.Total - int32(len(children))       //nolint:gosec // likewise
	named := map[v1alpha1.LocalName]bool{}
	for _, child := range children {
		switch status := &child.Status; {
		case !Ended(status) && status.Admission == nil:
			c.Waiting++
		case !Ended(status):
			c.Open++
		case status.Phase == v1alpha1.ActionCancelled:
			c.Cancelled++
		case status.Phase == v1alpha1.ActionSucceeded && Verified(status):
			c.Succeeded++
		default:
			c.Failed++
			if name := child.Spec.EndpointName; len(c.Failures) < maxFailures && !named[name] {
				named[name] = true
				c.Failures = append(c.Failures, failure(child))
			}
		}
	}
	return c
}

func failure(child *v1alpha1.EndpointAction) v1alpha1.EndpointFailure {
	f := v1alpha1.EndpointFailure{EndpointName: child.Spec.EndpointName, Reason: v1alpha1.Text(child.Status.Phase), Message: child.Status.Message}
	if !Verified(&child.Status) {
		f.Reason = ReasonBadProof
	} else if c := meta.FindStatusCondition(child.Status.Conditions, v1alpha1.ConditionFailed); c != nil {
		f.Reason = v1alpha1.Text(c.Reason)
	}
	return f
}

func ended(c *v1alpha1.ActionChildren) int32 { return c.Succeeded + c.Failed + c.Cancelled }

func progressOf(c *v1alpha1.ActionChildren) string { return fmt.Sprintf("%d/%d", ended(c), c.Total) }

// tally says how it went so far.
func tally(c *v1alpha1.ActionChildren) string {
	text := fmt.Sprintf("%d of %d endpoints succeeded", c.Succeeded, c.Total)
	if c.Failed > 0 {
		text += fmt.Sprintf(", %d failed", c.Failed)
	}
	if c.Cancelled > 0 {
		text += fmt.Sprintf(", %d were cancelled", c.Cancelled)
	}
	return text
}

// failed names some of those that failed.
func failed(c *v1alpha1.ActionChildren) string {
	var names []string
	for _, f := range c.Failures[:min(len(c.Failures), 5)] {
		names = append(names, fmt.Sprintf("%s (%s)", f.EndpointName, f.Reason))
	}
	if int(c.Failed) > len(names) {
		names = append(names, "…")
	}
	return strings.Join(names, ", ")
}
