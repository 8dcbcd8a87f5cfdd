package session

import (
	"testing"
	"time"

	"pgregory.net/rapid"

	"github.com/rollcall-dev/rollcall/internal/wire"
)

const start = time.Hour

// wanted is a machine that wants a session from start on.
func wanted() *Machine {
	m := &Machine{Timing: timing()}
	m.Want(start, true)
	return m
}

// up is one that has had a session since start.
func up(t *testing.T) *Machine {
	t.Helper()
	m := wanted()
	m.Dial()
	m.Opened(start)
	m.Received(start, m.Send(start, true, 0.5))
	if m.Phase() != Up || m.Busy() {
		t.Fatalf("phase %d, busy %t", m.Phase(), m.Busy())
	}
	return m
}

func expect(t *testing.T, m *Machine, at time.Duration, want Action, phrase string) {
	t.Helper()
	if got, end := m.Due(at); got != want || end.Phrase != phrase {
		t.Errorf("at %s: action %d %q, want %d %q", at-start, got, end.Phrase, want, phrase)
	}
}

// An idle session: a ping when nothing was sent for the interval, the next one after its answer.
func TestPings(t *testing.T) {
	m := up(t)
	expect(t, m, start+29*time.Second, None, "")
	expect(t, m, start+30*time.Second, Ping, "")
	id := m.Send(start+30*time.Second, false, 0)
	if id != 2 {
		t.Errorf("the second message has the id %d", id)
	}
	if m.Received(start+31*time.Second, id) {
		t.Error("a pong is taken for the answer to a heartbeat")
	}
	if v := m.View(); v.RoundTrip != time.Second {
		t.Errorf("round trip %s", v.RoundTrip)
	}
	expect(t, m, start+56*time.Second, None, "")
	expect(t, m, start+57*time.Second, Ping, "") // 30 s - 10 %
	m.Send(start+50*time.Second, true, 0.5)      // a heartbeat is a sign of life too
	expect(t, m, start+57*time.Second, None, "")
	m.PingInterval = 4 * time.Minute
	m.Send(start+60*time.Second, false, 0.5)
	if at := m.pingAt; at != start+5*time.Minute {
		t.Errorf("the next ping is at %s", at-start)
	}
}

// The other side is silent: late with an answer, or with anything.
func TestSilence(t *testing.T) {
	m := up(t)
	id := m.Send(start+30*time.Second, false, 0.5)
	expect(t, m, start+49*time.Second, None, "")
	expect(t, m, start+50*time.Second, Drop, "no answer came for 20s")
	m.Received(start+50*time.Second, id+7) // the answer to nothing answers nothing
	expect(t, m, start+50*time.Second, Drop, "no answer came for 20s")
	m.Received(start+50*time.Second, id)
	expect(t, m, start+50*time.Second, None, "")

	m = up(t)
	m.pingAt = Never
	expect(t, m, start+99*time.Second, None, "")
	expect(t, m, start+100*time.Second, Drop, "nothing came for 1m40s")

	m = wanted() // open, and the first heartbeat is not answered
	m.Dial()
	m.Opened(start)
	m.Send(start, true, 0.5)
	expect(t, m, start+19*time.Second, None, "")
	expect(t, m, start+20*time.Second, Drop, "no answer came for 20s")
}

// After a sleep shorter than either side bears, a ping at once and time for its answer; after a longer one the session is over.
func TestSleep(t *testing.T) {
	m := up(t)
	late := m.Send(start+10*time.Second, true, 0.5)
	woken := start + 20*time.Second // no ping is due by itself
	m.Slept(woken)
	expect(t, m, woken, Ping, "")
	m.Send(woken, false, 0.5)
	expect(t, m, woken+19*time.Second, None, "")
	m.Received(woken+time.Second, late)
	if rtt := m.View().RoundTrip; rtt > time.Second {
		t.Errorf("the sleep was taken for a round trip of %s", rtt)
	}
	expect(t, m, woken+20*time.Second, Drop, "no answer came for 20s")

	m = up(t)
	m.Slept(start + time.Hour)
	expect(t, m, start+time.Hour, Drop, "nothing came for 1m40s")
}

// Updates are answered when the server has kept them, however long that takes: they are never late, measure nothing, and leave room for a
// heartbeat and a ping.
func TestUpdates(t *testing.T) {
	m := up(t)
	var last uint64
	for range MaxUpdates {
		if channel, _ := m.UpdateChannel(start, start); channel != WebSocket || m.Busy() {
			t.Fatalf("the channel is %d", channel)
		}
		last = m.SendUpdate(start, 0.5)
	}
	if channel, until := m.UpdateChannel(start, start); channel != Wait || until != Never {
		t.Errorf("with %d on their way the channel is %d, until %s", MaxUpdates, channel, until)
	}
	if channel, _ := m.Channel(start, start); channel != WebSocket {
		t.Errorf("a heartbeat's channel is %d", channel)
	}
	m.pingAt = Never
	expect(t, m, start+99*time.Second, None, "")
	id := m.Send(start+99*time.Second, true, 0.5)
	expect(t, m, start+100*time.Second, Drop, "nothing came for 1m40s")
	if m.Received(start+101*time.Second, last) || m.View().RoundTrip != 0 {
		t.Errorf("an ack is taken for more: round trip %s", m.View().RoundTrip)
	}
	if channel, _ := m.UpdateChannel(start, start); channel != WebSocket || !m.Updating() {
		t.Errorf("after an answer the channel is %d", channel)
	}
	expect(t, m, start+118*time.Second, None, "")
	expect(t, m, start+119*time.Second, Drop, "no answer came for 20s")
	if !m.Received(start+119*time.Second, id) {
		t.Error("a heartbeat's answer is none")
	}
	m.Dial()
	if channel, until := m.UpdateChannel(start, start+time.Minute); channel != Wait || until != start+70*time.Second {
		t.Errorf("while it dials the channel is %d, until %s", channel, until-start)
	}
	m.Want(start, false)
	if channel, _ := m.UpdateChannel(start, start); channel != HTTPS {
		t.Errorf("where no session is wanted the channel is %d", channel)
	}
}

// However many there are to send and however fast they are answered, updates keep a pace.
func TestPaceOfUpdates(t *testing.T) {
	m, now := up(t), start
	for sent := 1; sent <= 200; sent++ {
		channel, until := m.UpdateChannel(now, now)
		if channel == Wait {
			if now = until; sent <= updateBurst {
				t.Fatalf("waits after %d", sent)
			}
			channel, _ = m.UpdateChannel(now, now)
		}
		if channel != WebSocket {
			t.Fatalf("the channel is %d", channel)
		}
		m.Received(now, m.SendUpdate(now, 0.5))
		if allowed := 60 + int((now-start)/(time.Second/20)) - 4; sent > allowed {
			t.Fatalf("%d sent in %s", sent, now-start)
		}
	}
	if took := now - start; took > 12*time.Second {
		t.Errorf("200 took %s", took)
	}
	m.Opened(now)
	if channel, _ := m.UpdateChannel(now, now); channel != Wait { // for the first heartbeat's answer
		t.Errorf("the channel is %d", channel)
	}
	m.Received(now, m.Send(now, true, 0))
	if channel, _ := m.UpdateChannel(now, now); channel != WebSocket {
		t.Errorf("on the next session the channel is %d", channel)
	}
}

// Which way a heartbeat goes that has been due for a while.
func TestChannel(t *testing.T) {
	fail := func(m *Machine, times int, e End) {
		for range times {
			m.Dial()
			m.Ended(start, e, false, 0.5)
		}
	}
	proxy := End{Kind: Refused, Phrase: "answered with 403"}
	for _, c := range []struct {
		name string
		do   func(*Machine)
		late time.Duration
		want Channel
	}{
		{"no session is wanted", func(m *Machine) { m.Want(start, false) }, 0, HTTPS},
		{"before the first attempt", func(*Machine) {}, 0, Wait},
		{"under way", func(m *Machine) { m.Dial() }, 9 * time.Second, Wait},
		{"under way for long", func(m *Machine) { m.Dial() }, 10 * time.Second, HTTPS},
		{"open, and not answered yet", func(m *Machine) { m.Dial(); m.Opened(start); m.Send(start, true, 0) }, time.Minute, Wait},
		{"one failure", func(m *Machine) { fail(m, 1, End{Kind: Lost}) }, 0, Wait},
		{"three failures in a row", func(m *Machine) { fail(m, 3, End{Kind: Lost}) }, 0, HTTPS},
		{"a proxy refuses", func(m *Machine) { fail(m, 1, proxy) }, 0, HTTPS},
		{"a proxy refuses, and the next attempt is under way", func(m *Machine) { fail(m, 1, proxy); m.Dial() }, 0, HTTPS},
		{"the server is busy", func(m *Machine) { fail(m, 1, End{Kind: Refused, Problem: &wire.Problem{Name: wire.Overloaded}}) }, 0, Wait},
		{"the identity is refused", func(m *Machine) { fail(m, 5, closed(4403, "endpoint-suspended")) }, 0, Wait},
		{"an old agent", func(m *Machine) { fail(m, 1, closed(4426, "")) }, 0, HTTPS},
		{"up", func(m *Machine) { m.Dial(); m.Opened(start); m.Received(start, m.Send(start, true, 0)) }, 0, WebSocket},
		{
			"up, and one is not answered yet",
			func(m *Machine) {
				m.Dial()
				m.Opened(start)
				m.Received(start, m.Send(start, true, 0))
				m.Send(start, true, 0)
			},
			time.Minute, Wait,
		},
		{"wanted again", func(m *Machine) { fail(m, 3, proxy); m.Want(start, false); m.Want(start, true) }, 0, Wait},
	} {
		t.Run(c.name, func(t *testing.T) {
			m := wanted()
			c.do(m)
			if got, _ := m.Channel(start+c.late, start); got != c.want {
				t.Errorf("channel %d, want %d", got, c.want)
			}
		})
	}
}

// The number of a session that a heartbeat over HTTPS may carry: of the last attempt that is over.
func TestNumbers(t *testing.T) {
	m := wanted()
	if m.Dial(); m.Number() != 1 || m.Over() != 0 {
		t.Errorf("under way: number %d, over %d", m.Number(), m.Over())
	}
	m.Ended(start, End{Kind: Lost}, false, 0)
	if m.Number() != 1 || m.Over() != 1 {
		t.Errorf("over: number %d, over %d", m.Number(), m.Over())
	}
}

// Failures in a row are made good by a session that lasts, not by one that is cut after a while.
func TestFailuresInARow(t *testing.T) {
	session := func(m *Machine, from, lasts time.Duration) {
		m.Dial()
		m.Opened(from)
		m.Received(from, m.Send(from, true, 0))
		m.Ended(from+lasts, End{Kind: Lost, Phrase: "cut"}, false, 0)
	}
	m := wanted()
	for i := range 5 {
		session(m, start, 59*time.Second)
		if m.failures != i+1 || m.Degraded() != (i >= 2) {
			t.Errorf("after %d sessions of 59s: %d failures, degraded %t", i+1, m.failures, m.Degraded())
		}
		m.Dial()
		m.Opened(start)
		if v := m.View(); (v.Phrase() == "cut") != (i >= 1) {
			t.Errorf("while the next begins after %d sessions of 59s it says %q", i+1, v.Phrase())
		}
		m.Ended(start, End{Kind: Left}, false, 0)
	}
	session(m, start, time.Minute)
	if m.failures != 1 || m.Degraded() {
		t.Errorf("after one of a minute: %d failures, degraded %t", m.failures, m.Degraded())
	}
	if v := m.View(); v.Opened != 6 || v.Lost != 6 || v.Phrase() != "cut" || v.Since != start+time.Minute {
		t.Errorf("view %+v", v)
	}
	session(m, start, time.Minute)
	m.Dial()
	m.Opened(start)
	m.Received(start, m.Send(start, true, 0))
	if v := m.View(); v.Phrase() != "" || v.Since != start {
		t.Errorf("while up: %+v", v)
	}
	m.Ended(start+time.Hour, End{Kind: Left}, false, 0)
	if v := m.View(); v.Phrase() != "" || v.Due != start+time.Hour || v.Lost != 7 {
		t.Errorf("left on purpose: %+v", v)
	}
}

// A server that was away answers HTTPS again: the session need not wait for its own backoff. One that a proxy refuses does.
func TestReachable(t *testing.T) {
	for kind, want := range map[Kind]time.Duration{Unreachable: start + 2*time.Second, Refused: start + 150*time.Second} {
		m := wanted()
		for range 20 {
			m.Dial()
			m.Ended(start, End{Kind: kind}, false, 0.5)
		}
		m.Reachable(start, 0.5)
		if m.due != want {
			t.Errorf("kind %d: the next attempt is in %s, want in %s", kind, m.due-start, want-start)
		}
	}
	m := wanted()
	for range 20 {
		m.Dial()
		m.Ended(start, End{Kind: Unreachable}, true, 0.5)
	}
	m.Reachable(start, 0.5)
	m.Dial()
	m.Ended(start, End{Kind: Unreachable}, true, 0.5) // turned away by a server that is there
	if want := start + 4*time.Second; m.due != want || !m.Degraded() {
		t.Errorf("after one more failure the next attempt is in %s, want in %s; degraded: %t", m.due-start, want-start, m.Degraded())
	}
}

// Whatever comes in whatever order: the machine never stands still where it should act, never acts twice at once, keeps to the bounds of the
// flow, sends no heartbeat by two ways, and notices a dead peer in time.
func TestWhateverComes(t *testing.T) {
	ends := []End{
		{Kind: Left}, {Kind: Unreachable}, {Kind: Refused}, {Kind: Lost}, closed(1012, "draining; retry=7"), closed(4403, ""), closed(4426, ""), closed(1008, ""),
	}
	rapid.Check(t, func(t *rapid.T) {
		m, now := wanted(), start
		heard := now
		var numbers uint64
		random := rapid.Float64Range(0, 0.999999)
		for range rapid.IntRange(1, 60).Draw(t, "events") {
			switch rapid.IntRange(0, 8).Draw(t, "event") {
			case 0: // until it wants something, or a minute
				now = max(now, min(m.Next(), now+time.Minute))
			case 1:
				if m.Phase() == Dialling {
					m.Opened(now)
					heard = now
					m.Send(now, true, random.Draw(t, "random"))
				}
			case 2, 3:
				if len(m.asked) > 0 {
					heard = now
					m.Received(now, m.asked[0].id)
				}
			case 4:
				if m.Phase() != Down {
					m.Ended(now, rapid.SampledFrom(ends).Draw(t, "end"), rapid.Bool().Draw(t, "beside"), random.Draw(t, "random"))
				}
			case 5:
				m.Want(now, rapid.Bool().Draw(t, "wanted"))
			case 6:
				now += time.Duration(rapid.IntRange(0, 7200).Draw(t, "slept")) * time.Second
				m.Slept(now)
			case 7:
				if channel, _ := m.Channel(now, now); channel == WebSocket {
					m.Send(now, true, random.Draw(t, "random"))
				}
			case 8:
				if channel, _ := m.UpdateChannel(now, now); channel == WebSocket {
					m.SendUpdate(now, random.Draw(t, "random"))
				}
			}
			for range 3 { // what is due is done, and then nothing is
				action, end := m.Due(now)
				switch action {
				case None:
				case Dial:
					m.Dial()
				case Ping:
					if now-heard >= m.silence() {
						t.Fatal("pings a peer that has been silent for too long")
					}
					m.Send(now, false, random.Draw(t, "random"))
				case Drop:
					m.Ended(now, end, false, random.Draw(t, "random"))
				case Leave:
					m.Ended(now, End{}, false, 0)
				}
			}
			switch action, _ := m.Due(now); {
			case action != None && (action != Dial || m.end == nil || m.due != now):
				t.Fatalf("action %d is due again and again", action)
			case len(m.asked) > 8 || len(m.asked) > 2 && !m.Updating():
				t.Fatalf("%d messages are unanswered", len(m.asked))
			case m.number < numbers || m.over > m.number:
				t.Fatalf("number %d after %d, %d over", m.number, numbers, m.over)
			case !m.wanted && m.phase != Down:
				t.Fatal("a session that is not wanted")
			case m.phase == Up && m.Next() > now+2*m.interval():
				t.Fatalf("an idle session does nothing for %s", m.Next()-now)
			}
			numbers = m.number
			if channel, _ := m.Channel(now, now-time.Hour); channel == HTTPS && (m.phase == Up || m.phase == Opening) {
				t.Fatal("a heartbeat by HTTPS beside an open session")
			}
		}
	})
}
