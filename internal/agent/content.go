package agent

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	statev1 "github.com/rollcall-dev/rollcall/api/agent/state/v1"
	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/agent/client"
	"github.com/rollcall-dev/rollcall/internal/agent/fetch"
	"github.com/rollcall-dev/rollcall/internal/agent/orders"
	"github.com/rollcall-dev/rollcall/internal/agent/problem"
	"github.com/rollcall-dev/rollcall/internal/agent/session"
	"github.com/rollcall-dev/rollcall/internal/agent/status"
	"github.com/rollcall-dev/rollcall/internal/content"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

// Reasons of a phase of content, besides those of packages content and fetch.
const (
	reasonDamaged        = "Damaged"
	reasonDownloadFailed = "DownloadFailed"
)

const (
	// patience is how many attempts in a row may bring nothing before that is told as a failure.
	patience = 3
	// maxDoublings of the pause after a bad file.
	maxDoublings = 6
)

// contentKeeper is the content of this machine: what is in use, and what is to be.
type contentKeeper struct {
	fetcher *fetch.Fetcher
	results []fetch.Result
	// record is what is on the disk and was found good.
	record *statev1.ContentRecord
	// damage is what was found at the start, until content was put to use again. Nothing is downloaded before the server has heard of it.
	damage *content.Fault
	heard  bool

	// plan is what is to become of the offers; next when there is something to do about it.
	plan plan
	next time.Duration
	// Of the offer that is being taken: how the attempts went, why the file of the last one was not taken, and whether it was begun anew.
	attempts task
	fault    *content.Fault
	anew     bool

	// told is what the last heartbeat said, in short; "" before the first of this start.
	told string
}

// plan is what is to become of the offers that were taken up.
type plan struct {
	// take is the offer to take, nil for none; artifact is its file.
	take     *agentv1.Offer
	artifact *agentv1.Artifact
	// deferred is the newest offer that has to wait, and how it was judged.
	deferred  *agentv1.Offer
	judgement content.Judgement
	// in is the offer of what is in use, nil for none.
	in *agentv1.Offer
}

// takeOffer takes up an offer. One that is not for this agent, or that it has, is passed over.
func (e *Engine) takeOffer(o *agentv1.Envelope) error {
	offer, err := e.book.Offer(o)
	if err != nil {
		return err
	}
	if e.book.HasOffer(offer) {
		return nil
	}
	s := e.situation()
	s.Sequence = e.book.Sequence()
	switch j := content.Judge(offer, s); j.Verdict {
	case content.Ignore:
		return nil
	case content.Refuse:
		e.Log.Info("an offer is refused: "+j.Message, "version", offer.GetVersion(), "release", offer.GetReleaseUid())
		return &orders.Refusal{Kind: "offer", Reason: j.Reason}
	default:
		e.clock.Order(offer.GetIssuedAt().AsTime())
		e.book.TakeUp(o, offer)
		e.Log.Info("an offer of content was taken up", "version", offer.GetVersion(), "sequence", offer.GetSequence(), "waits", j.Reason)
		return nil
	}
}

// situation is what offers are judged by; one that was taken up needs no higher sequence.
func (e *Engine) situation() content.Situation {
	current := e.content.record.GetCurrent()
	s := content.Situation{
		FleetID: e.id.FleetID, Namespace: e.book.Namespace(), IdentityID: e.id.ID, Platform: e.Platform,
		Version: current.GetVersion(), Digest: current.GetSha256(), Policy: e.book.Policy(), Now: e.now(),
	}
	if !e.clock.Anchored() {
		s.Now = e.clock.Floor()
	}
	return s
}

// makePlan judges the offers, the newest first: the first that need not wait counts.
func (e *Engine) makePlan() (p plan) {
	all, s := e.book.Offers(), e.situation()
	for i := len(all) - 1; i >= 0; i-- {
		switch j := content.Judge(all[i], s); j.Verdict {
		case content.Take:
			p.take, p.artifact = all[i], j.Artifact
			return p
		case content.Keep:
			p.in = all[i]
			return p
		case content.Defer:
			if p.deferred == nil {
				p.deferred, p.judgement = all[i], j
			}
		case content.Ignore, content.Refuse: // the policy or what is in use has changed since
		}
	}
	return p
}

// keepContent sees to it that the content is what the orders want: it takes what was downloaded, and begins what is to be.
func (e *Engine) keepContent() {
	c := &e.content
	for _, r := range e.fetched() {
		e.takeFile(r)
	}
	before := c.plan
	c.plan = e.makePlan()
	if c.plan.in != nil && e.book.DropOffers(c.plan.in.GetSequence()) {
		e.save()
	}
	if a := c.plan.artifact; a.GetSha256() != before.artifact.GetSha256() || a.GetSignature() != before.artifact.GetSignature() {
		c.attempts, c.fault, c.anew = task{name: "content", due: e.boot()}, nil, false
	}
	c.next = never
	switch take := c.plan.take; {
	case c.fetcher.Busy():
		c.fetcher.Pace(e.book.Policy().GetDownloadBytesPerSecond())
		if take == nil || !c.fetcher.Wants(c.plan.artifact, take.GetVersion()) {
			c.fetcher.Cancel() // and its result brings the next step
		}
	case take == nil:
		c.next = e.endOfDelay()
	case c.damage != nil && !c.heard || e.book.Trust == nil: // after the next heartbeat
	case e.boot() < c.attempts.due:
		c.next = c.attempts.due
	default:
		e.fetch()
	}
	if e.contentInShort() != c.told && c.told != "" && e.beat.problem == nil {
		e.beat.due = min(e.beat.due, e.boot())
	}
}

// endOfDelay is when an offer need not wait any more, as far as the time is known.
func (e *Engine) endOfDelay() time.Duration {
	until := e.content.plan.judgement.Until
	if until.IsZero() || !e.clock.Anchored() {
		return never
	}
	return later(e.boot(), max(0, until.Sub(e.now())))
}

// fetch begins an attempt.
func (e *Engine) fetch() {
	c := &e.content
	connection, moment, a := e.connection(), e.moment(), c.plan.artifact
	c.fetcher.Pace(e.book.Policy().GetDownloadBytesPerSecond())
	c.fetcher.Start(fetch.Job{
		Artifact: a, Version: c.plan.take.GetVersion(), Keys: e.book.Trust.Content, Dir: e.Dir, Spoil: e.SpoilContent,
		Open: func(ctx context.Context, from int64) (*client.Body, error) {
			return connection.Artifact(ctx, moment, a.GetSha256(), from, int64(a.GetSize())) //nolint:gosec // it was bounded
		},
	})
}

func (e *Engine) fetched() []fetch.Result {
	results := e.content.results
	e.content.results = nil
	select {
	case r := <-e.content.fetcher.Results():
		return append(results, r)
	default:
		return results
	}
}

// takeFile takes up how an attempt went. What is not wanted any more is left for the next sweep.
func (e *Engine) takeFile(r fetch.Result) {
	c := &e.content
	c.fetcher.Ended()
	if c.plan.take == nil || r.Digest != c.plan.artifact.GetSha256() || r.Version != c.plan.take.GetVersion() {
		return
	}
	if r.Err == nil {
		r.Err = e.switchTo(r)
	}
	if r.Err != nil {
		e.notTaken(r)
	}
}

// switchTo puts a verified file to use. Whenever the process dies, the old content or the new one is in use, whole.
func (e *Engine) switchTo(r fetch.Result) error {
	c := &e.content
	if !r.Here {
		if err := e.Dir.KeepPart(r.Digest); err != nil {
			return fetch.OnDisk(err)
		}
	}
	next := &statev1.ContentRecord{
		Current:  &statev1.ContentFile{Sha256: r.Digest, Version: r.Version, Since: timestamppb.New(e.now())},
		Previous: c.record.GetCurrent(),
	}
	if err := e.Dir.SaveContentRecord(next); err != nil {
		return fetch.OnDisk(err)
	}
	e.Log.Info("content was put to use", "version", r.Version, "before", c.record.GetCurrent().GetVersion())
	c.record, c.damage, c.fault = next, nil, nil
	e.sweepContent()
	return nil
}

// sweepContent removes what nobody will ask for: all but the content in use, the one before, and what is downloaded for offers that count. That it
// could not is no failure of the content.
func (e *Engine) sweepContent() {
	keep := []string{e.content.record.GetCurrent().GetSha256(), e.content.record.GetPrevious().GetSha256()}
	for _, o := range e.book.Offers() {
		keep = append(keep, content.Find(o, e.Platform).GetSha256())
	}
	if err := e.Dir.SweepContent(keep...); err != nil {
		e.Log.Info("old content is still here: " + err.Error())
	}
}

// notTaken decides when to try again. A file of which a part came earlier, and which is not good, is first begun anew: a power cut may have
// spoilt that part.
func (e *Engine) notTaken(r fetch.Result) {
	c := &e.content
	c.attempts.doneAt = e.boot()
	fault, bad := errors.AsType[*content.Fault](r.Err)
	if r.Moved && !bad {
		c.attempts.failures = 0
	}
	switch {
	case bad && fault.Reason == fetch.ReasonInterrupted:
		c.attempts.due = e.boot()
		return
	case bad && r.Resumed && !c.anew:
		c.anew = true
		c.attempts.due = e.boot()
		e.Log.Info("a download that was interrupted is begun anew: "+fault.Message, "version", r.Version)
		return
	case bad:
		c.fault = fault
		c.attempts.failures++
		c.attempts.due = later(e.boot(), session.Jitter(e.Timing.ContentRetry<<min(c.attempts.failures-1, maxDoublings), 0.2, e.Random()))
	default:
		e.notReached(problem.Of(r.Err))
	}
	e.Log.Info("content was not taken: "+r.Err.Error(), "version", r.Version, "retry", (c.attempts.due - e.boot()).Round(time.Millisecond).String())
}

// notReached counts an attempt that the server or the network has ended. Being told to wait is no failure.
func (e *Engine) notReached(p *wire.Problem) {
	c := &e.content
	c.attempts.problem = p
	c.attempts.failures++
	c.attempts.due = later(e.boot(), e.Timing.after(reaction{limit: e.Timing.RetryMax}, p.RetryAfter, c.attempts.failures, e.Random()))
	switch p.Name {
	case wire.Throttled, wire.Overloaded, wire.Draining, wire.NotReady, wire.StoreUnavailable:
	default:
		if c.attempts.failures >= patience && (c.fault == nil || c.fault.Reason == reasonDownloadFailed) {
			c.fault = &content.Fault{Reason: reasonDownloadFailed, Message: wire.CutText("the download fails: "+p.Error(), wire.MaxText)}
		}
	}
}

// takeUpContent finds what is in use, at the start: the current content, or where that is damaged the one before.
func (e *Engine) takeUpContent() error {
	c := &e.content
	record, err := e.Dir.ContentRecord()
	if err != nil {
		return problem.New(problem.StateUnwritable, err.Error())
	}
	c.record = record
	defer e.sweepContent()
	current := record.GetCurrent()
	if current == nil {
		return nil
	}
	damage := e.examine(current)
	if damage == nil {
		return nil
	}
	c.record = &statev1.ContentRecord{}
	instead := "none is in use"
	if before := record.GetPrevious(); before != nil && e.examine(before) == nil {
		c.record.Current = before
		instead = "version " + before.GetVersion() + " is in use again"
	}
	c.damage = &content.Fault{
		Reason:  reasonDamaged,
		Message: wire.CutText(fmt.Sprintf("version %s on this machine's disk is damaged: %v; %s", current.GetVersion(), damage, instead), wire.MaxText),
	}
	if err := e.Dir.SaveContentRecord(c.record); err != nil { // the next start finds the same
		e.Log.Error(err, "the record of content cannot be written")
	}
	return nil
}

// examine tells what is wrong with content on the disk, and sets it aside.
func (e *Engine) examine(f *statev1.ContentFile) error {
	file, err := e.Dir.Content(f.GetSha256(), content.MaxBytes)
	if err == nil && content.Digest(file) != f.GetSha256() {
		err = errors.New("its digest is another")
	}
	if err == nil {
		_, err = content.Parse(file)
	}
	if err != nil {
		e.Dir.SetContentAside(f.GetSha256(), err)
	}
	return err
}

// contentState is what heartbeats say of the content.
func (e *Engine) contentState() *agentv1.ReleaseState {
	c := &e.content
	s := &agentv1.ReleaseState{Version: c.record.GetCurrent().GetVersion(), Digest: c.record.GetCurrent().GetSha256(), Sequence: e.book.Sequence()}
	failed := func(f *content.Fault) *agentv1.ReleaseState {
		s.Phase, s.Reason, s.Message = agentv1.ReleasePhase_RELEASE_PHASE_FAILED, f.Reason, f.Message
		return s
	}
	switch take := c.plan.take; {
	case take != nil && c.fault != nil:
		s.Sequence = take.GetSequence()
		return failed(&content.Fault{Reason: c.fault.Reason, Message: wire.CutText("content "+take.GetVersion()+" not applied: "+c.fault.Message, wire.MaxText)})
	case c.damage != nil:
		return failed(c.damage)
	case take != nil:
		s.Sequence, s.Phase = take.GetSequence(), agentv1.ReleasePhase_RELEASE_PHASE_DOWNLOADING
	case c.plan.deferred != nil:
		s.Phase, s.Reason, s.Message = agentv1.ReleasePhase_RELEASE_PHASE_DEFERRED, c.plan.judgement.Reason, c.plan.judgement.Message
		s.Sequence = c.plan.deferred.GetSequence()
	case c.record.GetCurrent() != nil:
		s.Phase = agentv1.ReleasePhase_RELEASE_PHASE_CURRENT
	}
	return s
}

var phasesShown = map[agentv1.ReleasePhase]string{
	agentv1.ReleasePhase_RELEASE_PHASE_CURRENT: status.Current, agentv1.ReleasePhase_RELEASE_PHASE_DOWNLOADING: status.Downloading,
	agentv1.ReleasePhase_RELEASE_PHASE_FAILED: status.Failed, agentv1.ReleasePhase_RELEASE_PHASE_DEFERRED: status.Deferred,
}

// contentShown is what a person at the machine is told, but for what changes by the moment: how much there is, and when it goes on.
func (e *Engine) contentShown() status.Content {
	c, s := &e.content, e.contentState()
	out := status.Content{
		Version: s.GetVersion(), Digest: s.GetDigest(), Sequence: s.GetSequence(), Reason: s.GetReason(), Message: s.GetMessage(),
		Phase: phasesShown[s.GetPhase()],
	}
	if since := c.record.GetCurrent().GetSince(); since != nil {
		out.Since = new(since.AsTime())
	}
	switch {
	case c.plan.take != nil && (c.damage == nil || c.fault != nil):
		if c.fault != nil {
			out.Message = c.fault.Message
		}
		out.Offered, out.Size = c.plan.take.GetVersion(), int64(c.plan.artifact.GetSize()) //nolint:gosec // it was bounded
	case c.plan.take == nil && c.plan.deferred != nil:
		out.Offered = c.plan.deferred.GetVersion()
	}
	return out
}

// contentInShort changes where the server is to hear of it at once. That a download goes on, or that what is in use was offered anew, can wait.
func (e *Engine) contentInShort() string {
	s := e.contentState()
	if s.GetPhase() == agentv1.ReleasePhase_RELEASE_PHASE_DOWNLOADING {
		return "…" + s.GetVersion()
	}
	if s.GetPhase() == agentv1.ReleasePhase_RELEASE_PHASE_CURRENT {
		return s.GetVersion() + s.GetDigest()
	}
	return fmt.Sprint(s.GetPhase(), s.GetVersion(), s.GetReason(), s.GetSequence())
}
