// Package session decides about an agent's websocket: when to try, which channel a heartbeat takes, when to ping and when to give up. The
// Machine is pure: it has no clock and no connection, times are passed in. Line is the connection: the goroutine that dials and reads.
package session

import (
	"math"
	"slices"
	"time"
)

// Phase of a session.
type Phase int

// Phases. A session is Up once its first heartbeat was answered.
const (
	Down Phase = iota
	Dialling
	Opening
	Up
)

// Never is a moment that does not come by itself.
const Never = time.Duration(math.MaxInt64)

// failuresToDegrade in a row send heartbeats by HTTPS.
const failuresToDegrade = 3

// briefToTell sessions in a row that did not last are told of while there is the next. One alone is nothing to read about.
const briefToTell = 2

// Machine is an agent's websocket as the agent knows it. Times are since boot, sleep included; random values are in [0,1).
type Machine struct {
	// Timing may be changed at any time. PingInterval is the policy's, 0 for Timing.Ping.
	Timing       Timing
	PingInterval time.Duration

	phase    Phase
	wanted   bool
	number   uint64 // of attempts, the one under way included
	over     uint64 // of the last attempt that is over
	failures int    // in a row
	end      *End   // why there is no session; nil while nothing went wrong
	brief    int    // sessions in a row that were up and did not last
	briefEnd *End   // why the last of them did not
	since    time.Duration
	due      time.Duration // the next attempt

	lastID   uint64
	pingAt   time.Duration // unless something is sent before
	received time.Duration
	asked    []question    // unanswered, oldest first
	paced    time.Duration // up to when the pace of the updates is used up

	roundTrip, measured time.Duration
	opened, lost        uint64
}

const (
	// MaxUpdates may be unanswered at once: with a heartbeat and a ping that is what the protocol allows.
	MaxUpdates = 6
	// updateEvery is how often one is sent after updateBurst at once: below the pace at which a server takes an agent for a flood.
	updateEvery = time.Second / 15
	updateBurst = 40
)

// question is a message that is to be answered.
type question struct {
	id     uint64
	at     time.Duration // what lateness counts from
	kind   kind
	asleep bool // the machine slept since: its round trip says nothing
}

type kind int

const (
	ping kind = iota
	beat
	// update is answered once the server has kept it, which may take as long as its own server is away: it is never late, and measures nothing.
	update
)

// Action is what a Machine wants done.
type Action int

// Actions.
const (
	None Action = iota
	Dial
	Ping
	Drop
	Leave
)

// Channel is the way that a heartbeat takes.
type Channel int

// Channels. Wait: an attempt at a session is under way or about to be, and will carry it.
const (
	Wait Channel = iota
	WebSocket
	HTTPS
)

// Want says whether there should be a session, from now on.
func (m *Machine) Want(now time.Duration, wanted bool) {
	if wanted && !m.wanted {
		m.failures, m.end, m.since, m.due = 0, nil, now, now
		m.brief, m.briefEnd = 0, nil
	}
	m.wanted = wanted
}

// Next is when Due has something to say again.
func (m *Machine) Next() time.Duration {
	switch {
	case m.phase == Down && m.wanted:
		return m.due
	case m.phase == Down:
		return Never
	case !m.wanted:
		return 0
	case m.phase == Dialling: // bounded by who dials
		return Never
	}
	next := m.received + m.silence()
	if m.phase == Up && !m.pinging() {
		next = min(next, m.pingAt)
	}
	return min(next, m.late())
}

// late is when an answer is.
func (m *Machine) late() time.Duration {
	i := slices.IndexFunc(m.asked, func(q question) bool { return q.kind != update })
	if i < 0 {
		return Never
	}
	return m.asked[i].at + m.Timing.Answer
}

// Due is what is to be done now, and with Drop why.
func (m *Machine) Due(now time.Duration) (Action, End) {
	switch {
	case m.Next() > now:
		return None, End{}
	case m.phase == Down:
		return Dial, End{}
	case !m.wanted:
		return Leave, End{}
	case m.late() <= now:
		return Drop, End{Kind: Lost, Phrase: "no answer came for " + m.Timing.Answer.String()}
	case m.received+m.silence() <= now:
		return Drop, End{Kind: Lost, Phrase: "nothing came for " + m.silence().String()}
	default:
		return Ping, End{}
	}
}

func (m *Machine) interval() time.Duration {
	if m.PingInterval > 0 {
		return m.PingInterval
	}
	return m.Timing.Ping
}

// silence is how long nothing may come before either side gives the session up.
func (m *Machine) silence() time.Duration { return 2*m.interval() + m.Timing.Silence }

// Dial begins an attempt.
func (m *Machine) Dial() {
	m.phase = Dialling
	m.number++
}

// Opened says that the websocket is open. The first heartbeat is sent now.
func (m *Machine) Opened(now time.Duration) {
	m.phase, m.received, m.lastID, m.asked, m.paced = Opening, now, 0, m.asked[:0], now
}

// Send says that a heartbeat or a ping is sent, and returns its id.
func (m *Machine) Send(now time.Duration, isBeat bool, random float64) uint64 {
	if isBeat {
		return m.send(now, beat, random)
	}
	return m.send(now, ping, random)
}

// SendUpdate says that an update is sent, and returns its id.
func (m *Machine) SendUpdate(now time.Duration, random float64) uint64 {
	m.paced = max(m.paced, now) + updateEvery
	return m.send(now, update, random)
}

func (m *Machine) send(now time.Duration, k kind, random float64) uint64 {
	m.lastID++
	m.asked = append(m.asked, question{id: m.lastID, at: now, kind: k})
	m.pingAt = now + Jitter(m.interval(), 0.1, random)
	return m.lastID
}

// Received says that a message came, which answers the one with the id re, 0 for none. It tells whether that was a heartbeat still
// unanswered; the answer to something else, or to nothing, is no heartbeat's.
func (m *Machine) Received(now time.Duration, re uint64) (isBeat bool) {
	m.received = max(m.received, now)
	i := slices.IndexFunc(m.asked, func(q question) bool { return q.id == re })
	if i < 0 {
		return false
	}
	q := m.asked[i]
	m.asked = slices.Delete(m.asked, i, i+1)
	if !q.asleep && q.kind != update {
		m.roundTrip, m.measured = max(0, now-q.at), now
	}
	switch {
	case q.kind == beat && m.phase == Opening:
		m.phase, m.since = Up, now
		m.opened++
		m.end = nil
	case m.phase == Up && now-m.since >= m.Timing.Stable:
		m.lasts()
	}
	return q.kind == beat
}

// lasts makes good what was before.
func (m *Machine) lasts() { m.failures, m.brief, m.briefEnd = 0, 0, nil }

// Slept says that the machine was asleep until now: what is unanswered has its time again, and a ping finds out at once whether the other
// side is still there. After more than the silence that either side bears it is not, and Due says so.
func (m *Machine) Slept(now time.Duration) {
	for i := range m.asked {
		m.asked[i].at, m.asked[i].asleep = now, true
	}
	m.pingAt = min(m.pingAt, now)
}

// Ended says that the attempt or session under way is over, and why. beside says that heartbeats go by HTTPS. It tells whether they should
// from now on, and have not before.
func (m *Machine) Ended(now time.Duration, e End, beside bool, random float64) (degraded bool) {
	before := m.Degraded()
	if m.phase == Up {
		if now-m.since >= m.Timing.Stable {
			m.lasts()
		}
		if e.Kind != Left {
			m.lost++
		}
		if now-m.since < m.Timing.Stable && e.Kind != Left && !slices.Contains(busy, e.Name()) {
			m.brief, m.briefEnd = m.brief+1, &e
		}
		m.since = now
	}
	m.phase, m.over, m.asked = Down, m.number, m.asked[:0]
	if e.Kind == Left {
		m.due, m.end = now, nil
		return false
	}
	m.failures++
	m.end = &e
	m.due = now + m.Timing.wait(e, m.failures, beside, random)
	return m.Degraded() && !before
}

// Degraded tells whether heartbeats go by HTTPS while there is no session.
func (m *Machine) Degraded() bool {
	return m.phase != Up && m.end != nil && !m.end.OfIdentity() && (m.failures >= failuresToDegrade || m.end.degrades())
}

// Postpone puts off the next attempt to a moment.
func (m *Machine) Postpone(to time.Duration) { m.due = to }

// Hurry makes the next attempt now, if there is to be one.
func (m *Machine) Hurry(now time.Duration) { m.due = min(m.due, now) }

// Reachable says that HTTPS has worked. If the server could not be reached before, a session is soon tried: within four times the first
// backoff, so that a fleet that lost its server does not come back as one; and the backoff after it is that of a server that is there: where a
// crowd comes back, most are turned away some more times.
func (m *Machine) Reachable(now time.Duration, random float64) {
	if m.phase == Down && m.end != nil && m.end.Kind == Unreachable {
		m.failures = min(m.failures, failuresToDegrade)
		m.due = min(m.due, now+time.Duration(random*float64(4*m.Timing.RetryBase)))
	}
}

// Channel is the way of a heartbeat that is due at a moment, and when to ask again if it is to wait; Never if something will happen first.
func (m *Machine) Channel(now, due time.Duration) (Channel, time.Duration) {
	if m.phase == Up && m.BeatUnanswered() {
		return Wait, Never
	}
	return m.way(now, due)
}

// UpdateChannel is the way of an update, likewise.
func (m *Machine) UpdateChannel(now, due time.Duration) (Channel, time.Duration) {
	if m.phase == Up && m.unanswered(update) >= MaxUpdates {
		return Wait, Never
	}
	if free := m.paced - updateBurst*updateEvery; m.phase == Up && free > now {
		return Wait, free
	}
	return m.way(now, due)
}

func (m *Machine) way(now, due time.Duration) (Channel, time.Duration) {
	overdue := due + m.Timing.Grace
	switch {
	case m.phase == Up:
		return WebSocket, 0
	case !m.wanted:
		return HTTPS, 0
	case m.phase == Opening: // a heartbeat by HTTPS would say that the session is over
		return Wait, Never
	case m.Degraded(), overdue <= now:
		return HTTPS, 0
	default:
		return Wait, overdue
	}
}

// BeatUnanswered tells whether a heartbeat is on its way.
func (m *Machine) BeatUnanswered() bool { return m.unanswered(beat) > 0 }

// pinging tells whether a ping is on its way.
func (m *Machine) pinging() bool { return m.unanswered(ping) > 0 }

// Updating tells whether an update is on its way.
func (m *Machine) Updating() bool { return m.unanswered(update) > 0 }

func (m *Machine) unanswered(k kind) (n int) {
	for _, q := range m.asked {
		if q.kind == k {
			n++
		}
	}
	return n
}

// Busy tells whether an answer is awaited that comes soon: of a dial, to a heartbeat or a ping.
func (m *Machine) Busy() bool { return m.phase == Dialling || m.BeatUnanswered() || m.pinging() }

// Phase is the phase.
func (m *Machine) Phase() Phase { return m.phase }

// Number is that of the attempt under way, or of the last.
func (m *Machine) Number() uint64 { return m.number }

// LastID is the id of the last message that was sent.
func (m *Machine) LastID() uint64 { return m.lastID }

// Over is the number of the last attempt that is over, 0 if none is.
func (m *Machine) Over() uint64 { return m.over }

// View is a Machine as others see it. It does not change.
type View struct {
	Phase  Phase
	Wanted bool
	// Since is when the session was up, or when there was none any more.
	Since time.Duration
	// Failures in a row, the last of them with End; nil while nothing went wrong. Due is the next attempt.
	Failures int
	End      *End
	Due      time.Duration
	// Brief sessions in a row did not last, the last of them with BriefEnd.
	Brief    int
	BriefEnd *End
	// RoundTrip was measured at a moment, 0 for not yet.
	RoundTrip, Measured time.Duration
	// Opened and Lost count sessions since the start.
	Opened, Lost uint64
}

// View is what can be seen now.
func (m *Machine) View() View {
	return View{
		Phase: m.phase, Wanted: m.wanted, Since: m.since, Failures: m.failures, End: m.end, Due: m.due, RoundTrip: m.roundTrip, Measured: m.measured,
		Opened: m.opened, Lost: m.lost, Brief: m.brief, BriefEnd: m.briefEnd,
	}
}

// Phrase says why there is no session where one is wanted, or, of one that has not lasted yet, why those before did not; "" if nothing is
// wrong.
func (v View) Phrase() string {
	switch {
	case !v.Wanted:
		return ""
	case v.Phase < Opening && v.End != nil:
		return v.End.Phrase
	case v.Phase >= Opening && v.Brief >= briefToTell:
		return v.BriefEnd.Phrase
	default:
		return ""
	}
}
