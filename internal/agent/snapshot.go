package agent

import (
	"cmp"
	"strings"
	"time"

	"github.com/rollcall-dev/rollcall/internal/agent/client"
	"github.com/rollcall-dev/rollcall/internal/agent/fetch"
	"github.com/rollcall-dev/rollcall/internal/agent/problem"
	"github.com/rollcall-dev/rollcall/internal/agent/session"
	"github.com/rollcall-dev/rollcall/internal/agent/status"
	"github.com/rollcall-dev/rollcall/internal/liveness"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

// skewWorthTelling is from where a wrong clock is called a problem.
const skewWorthTelling = 5 * time.Minute

// snapshot is what Status is made from: taken after each step, never changed.
type snapshot struct {
	status   status.Status
	facts    problem.Facts
	notAfter time.Time
	clock    liveness.Clock

	enrollment, renewal, beat, start, updates task
	websocket                                 session.View
	over                                      string // the way of the last heartbeat
	acceptedAt                                time.Duration
	unwritable                                *wire.Problem
	fetcher                                   *fetch.Fetcher
	fetchAt                                   time.Duration // the next attempt; never while one is under way, or where there is to be none
}

func (e *Engine) publish() {
	s := &snapshot{
		clock: *e.clock, start: e.start, enrollment: e.enrollment, renewal: e.renewal, beat: e.beat, updates: e.updates, acceptedAt: e.acceptedAt, unwritable: cmp.Or(e.unwritable, e.unjournaled),
		websocket: e.session.View(), over: status.OverWebsocket, fetcher: e.content.fetcher, fetchAt: never,
		facts: problem.Facts{
			Identity: e.identityID(), Instance: e.instance, Server: e.Server.String(), Proxy: client.ProxyName(e.Proxy), StateDir: e.Dir.Path(), Skew: e.clock.Skew(),
		},
	}
	if e.overHTTPS {
		s.over = status.OverHTTPS
	}
	p := e.book.Policy()
	s.status = status.Status{
		Agent: status.Agent{
			Version: e.Version, Platform: e.Platform, Instance: e.instance, Epoch: e.kept.GetEpoch(), StateDir: e.Dir.Path(),
			Capabilities: e.capabilities,
		},
		Server:  status.Server{URL: e.Server.String(), Proxy: client.ProxyName(e.Proxy), Gateway: e.gateway},
		Policy:  status.Policy{ID: p.GetPolicyId(), Revision: p.GetRevision(), HeartbeatIntervalSeconds: int64(e.interval() / time.Second)},
		Orders:  status.Orders{Rejected: e.rejected, LastRejection: e.lastRejection},
		Actions: e.openCount(),
		Damaged: e.Dir.Damaged(),
		Content: e.contentShown(),
	}
	if e.content.plan.take != nil && !e.content.fetcher.Busy() {
		s.fetchAt = e.content.next
	}
	if e.client != nil {
		s.status.Server.CipherSuite = e.client.CipherSuite()
	}
	if e.id != nil {
		s.status.Endpoint = &status.Endpoint{Identity: e.id.ID, Fleet: e.id.FleetID, Namespace: e.book.Namespace()}
		s.notAfter, s.facts.Expires = e.id.Certificate.NotAfter, e.id.Certificate.NotAfter
	}
	if t := e.book.Trust; t != nil {
		s.status.Trust = &status.Trust{Version: t.Version, IssuedAt: t.IssuedAt}
	}
	e.snapshot.Store(s)
}

// Connected tells whether there is a websocket now. It costs next to nothing, and may be called from any goroutine.
func (e *Engine) Connected() bool { return e.snapshot.Load().websocket.Phase == session.Up }

// Status is the agent as it is now. It may be called from any goroutine.
func (e *Engine) Status() status.Status {
	s, r := *e.snapshot.Load(), e.Host.Clock()
	out := s.status
	now := s.clock.Now(r)
	out.Clock = status.Clock{Known: s.clock.Anchored(), Now: now, SkewSeconds: seconds(s.clock.Skew())}
	if age, ok := s.clock.BeaconAge(r); ok {
		out.Clock.BeaconAgeSeconds = seconds(max(0, age))
	}
	if out.Endpoint != nil {
		out.Certificate = &status.Certificate{NotAfter: s.notAfter, ExpiresInSeconds: seconds(s.notAfter.Sub(now)), Renewing: s.renewal.waiting}
		out.Certificate.RenewsInSeconds = until(s.renewal.due, r.Boot)
		s.facts.Expired = now.After(s.notAfter)
	}
	out.Heartbeat = status.Heartbeat{
		Accepted: s.beat.doneAt != 0 && s.beat.problem == nil, AcceptedCount: s.beat.succeeded, FailedCount: s.beat.failed,
	}
	if s.beat.doneAt != 0 {
		out.Heartbeat.Over = s.over
		out.Heartbeat.LastSecondsAgo = new(seconds(r.Boot - s.beat.doneAt))
	}
	if s.acceptedAt != 0 {
		out.Heartbeat.AcceptedSecondsAgo = new(seconds(r.Boot - s.acceptedAt))
	}
	if out.Endpoint != nil {
		out.Heartbeat.NextInSeconds = until(s.beat.due, r.Boot)
	}
	if out.Content.Size > 0 {
		out.Content.Downloaded, out.Content.RetryInSeconds = s.fetcher.Have(), until(s.fetchAt, r.Boot)
	}
	out.Websocket = s.channel(r.Boot)
	out.State = s.state(out.Heartbeat.Accepted)
	out.Problems = s.problems(r)
	return out
}

// channel is the websocket as it is at a moment since boot.
func (s *snapshot) channel(boot time.Duration) status.Websocket {
	v := s.websocket
	out := status.Websocket{
		State: s.channelState(), URL: "wss" + strings.TrimPrefix(s.status.Server.URL, "https") + wire.PathSession, OpenedCount: v.Opened, LostCount: v.Lost,
	}
	if !v.Wanted {
		return out
	}
	if v.Phase == session.Up || v.End != nil {
		out.ForSeconds = new(seconds(boot - v.Since))
	}
	if v.Phase == session.Up {
		out.Subprotocol = wire.Subprotocol
		out.RoundTripMilliseconds, out.RoundTripSecondsAgo = new(float64(v.RoundTrip)/float64(time.Millisecond)), new(seconds(boot-v.Measured))
		out.Error = v.Phrase()
		return out
	}
	out.Attempt = v.Failures + 1
	if v.Phase == session.Down {
		out.NextAttemptInSeconds = until(v.Due, boot)
	}
	if v.End != nil {
		out.Error, out.Detail = v.End.Phrase, v.End.Detail
	}
	return out
}

func (s *snapshot) channelState() string {
	switch v := s.websocket; {
	case s.status.Endpoint == nil:
		return status.Disconnected
	case !v.Wanted:
		return status.Disabled
	case v.Phase == session.Up:
		return status.Connected
	case v.End == nil:
		return status.Connecting
	case v.End.Unsupported():
		return status.Unsupported
	default:
		return status.Disconnected
	}
}

func (s *snapshot) state(accepted bool) string {
	enrolled := s.status.Endpoint != nil
	switch {
	case accepted:
		return problem.StateOnline
	case s.beat.problem != nil && enrolled:
		// What a renewal was refused for says more than that the old certificate is no longer good.
		if p := s.renewal.problem; p != nil && s.beat.problem.Name == wire.CertificateExpired {
			return problem.Explain(p.Name, s.facts).State
		}
		return problem.Explain(s.beat.problem.Name, s.facts).State
	case s.enrollment.problem != nil && !enrolled:
		if w := problem.Explain(s.enrollment.problem.Name, s.facts); w.State != problem.StateOffline {
			return w.State
		}
		return problem.StateNotEnrolled
	case !enrolled && s.status.Agent.Epoch != 0:
		return problem.StateEnrolling
	default:
		return problem.StateStarting
	}
}

// problems of all tasks, the one that keeps the agent from its server first.
func (s *snapshot) problems(r liveness.Reading) []status.Problem {
	var out []status.Problem
	add := func(p *wire.Problem, due time.Duration) {
		if p == nil || len(out) > 0 && out[len(out)-1].Name == string(p.Name) {
			return
		}
		w := problem.Explain(p.Name, s.facts)
		out = append(out, status.Problem{
			Name: string(p.Name), Title: w.Title, Meaning: w.Meaning, Advice: w.Advice, Detail: p.Detail, RetryInSeconds: until(due, r.Boot),
		})
	}
	if s.status.Endpoint == nil {
		add(s.start.problem, s.start.due)
		add(s.enrollment.problem, s.enrollment.due)
	} else {
		add(s.beat.problem, s.beat.due)
		add(s.updates.problem, s.updates.due)
		add(s.renewal.problem, s.renewal.due)
	}
	add(s.unwritable, never)
	if skew := s.clock.Skew(); s.clock.Anchored() && skew.Abs() >= skewWorthTelling {
		add(&wire.Problem{Name: problem.ClockSkewed}, never)
	}
	return out
}

func until(due, boot time.Duration) *int64 {
	if due == never {
		return nil
	}
	return new(seconds(max(0, due-boot)))
}

func seconds(d time.Duration) int64 { return int64(d.Round(time.Second) / time.Second) }
