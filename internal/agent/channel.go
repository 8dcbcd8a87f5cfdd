package agent

import (
	"context"
	"time"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/agent/problem"
	"github.com/rollcall-dev/rollcall/internal/agent/session"
	"github.com/rollcall-dev/rollcall/internal/liveness"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

// slept tells whether the machine slept between two readings. Clocks are read one after the other: less than this is no sleep.
func slept(before, now liveness.Reading) bool { return now.Asleep(before) > 2*time.Second }

// want tells the session what the policy wants.
func (e *Engine) want() {
	p := e.book.Policy()
	e.session.PingInterval = p.GetPingInterval().AsDuration()
	e.session.Timing.Grace = min(e.Timing.Websocket.Grace, e.interval()/2)
	e.session.Want(e.boot(), e.id != nil && !e.NoWebsocket && !p.GetWebsocketDisabled())
}

// opening tells whether an attempt is under way. What takes long waits for its end: once open, a websocket has seconds for its first message.
func (e *Engine) opening() bool {
	return e.session.Phase() == session.Dialling || e.session.Phase() == session.Opening
}

// attend takes what came on the websocket, then does what is due on it.
func (e *Engine) attend(ctx context.Context) {
	now := e.Host.Clock()
	if slept(e.looked, now) {
		e.Log.Info("the machine slept", "for", now.Asleep(e.looked).Round(time.Second).String())
		e.session.Slept(now.Boot)
	}
	e.looked = now
	e.want()
	for _, event := range e.arrived() {
		e.take(ctx, event)
	}
	switch action, end := e.session.Due(e.boot()); action {
	case session.Dial:
		e.dial(ctx)
	case session.Ping:
		id := e.session.Send(e.boot(), false, e.Random())
		e.say(ctx, &agentv1.AgentMessage{Id: id, Body: &agentv1.AgentMessage_Ping{Ping: &agentv1.Ping{}}})
	case session.Drop:
		e.ended(ctx, end)
	case session.Leave:
		e.leave(wire.CloseNormal)
	case session.None:
	}
}

func (e *Engine) arrived() []session.Event {
	events := e.came
	e.came = nil
	for {
		select {
		case event := <-e.line.Events():
			events = append(events, event)
		default:
			return events
		}
	}
}

func (e *Engine) dial(ctx context.Context) {
	e.session.Dial()
	if err := e.ensureTrust(ctx, 0); err != nil {
		e.ended(ctx, unreachable(problem.Of(err)))
		return
	}
	connection, moment, limit := e.connection(), e.moment(), e.session.Timing.Dial
	e.line.Dial(ctx, e.session.Number(), func(ctx context.Context) (session.Conn, error) {
		ctx, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		return connection.Session(ctx, moment)
	})
}

// take takes one event. One of an attempt that was given up is late.
func (e *Engine) take(ctx context.Context, event session.Event) {
	switch {
	case event.Number != e.session.Number() || e.session.Phase() == session.Down:
		if event.Opened != nil {
			event.Opened.CloseNow()
		}
	case event.Opened != nil:
		e.line.Take(event.Opened)
		e.session.Opened(event.At.Boot)
		e.sendBeat(ctx)
	case event.Err != nil:
		e.ended(ctx, e.why(event.Err))
	default:
		e.receive(ctx, event.Message, event.At)
	}
}

// sendBeat sends a heartbeat on the websocket. Its answer ends the task.
func (e *Engine) sendBeat(ctx context.Context) {
	beat, tags := e.compose(ctx)
	beat.Agent.SessionNumber, beat.SessionError = e.session.Number(), wire.CutText(e.session.View().Phrase(), wire.MaxText)
	e.telling, e.overHTTPS = tags, false
	id := e.session.Send(e.boot(), true, e.Random())
	e.say(ctx, &agentv1.AgentMessage{Id: id, Body: &agentv1.AgentMessage_Heartbeat{Heartbeat: beat}})
}

func (e *Engine) say(ctx context.Context, m *agentv1.AgentMessage) {
	if err := e.line.Send(m); err != nil {
		e.ended(ctx, e.why(err))
	}
}

// receive takes a message. An answer is believed to be one only if it was waited for.
func (e *Engine) receive(ctx context.Context, m *agentv1.ServerMessage, at liveness.Reading) {
	before := e.session.Phase()
	beat := e.session.Received(at.Boot, m.GetRe())
	if before != session.Up && e.session.Phase() == session.Up {
		e.Log.Info("websocket connected", "session", e.session.Number())
		e.box.Again(e.boot())
		if e.client != nil {
			e.client.Close() // one connection is enough
		}
	}
	orders, pushed := m.GetBody().(*agentv1.ServerMessage_Orders)
	told, isUpdate := e.told[m.GetRe()]
	switch {
	case pushed:
		e.pushed(ctx, orders.Orders, at)
	case isUpdate:
		delete(e.told, m.GetRe())
		e.updateAnswered(told, m)
	case !beat:
		if p, ok := wire.ProblemOf(m.GetProblem()); ok {
			e.Log.Info("the server refused a message: "+p.Error(), "reason", p.Name)
		}
	case m.GetHeartbeatReply() != nil:
		e.finish(ctx, &e.beat, e.accepted(ctx, m.GetHeartbeatReply(), at, e.telling), nil)
	default:
		p, ok := wire.ProblemOf(m.GetProblem())
		if !ok {
			p = problem.New(problem.ReplyMalformed, "The server answered a heartbeat with another kind of message.")
		}
		e.lessIf(p.Name)
		e.finish(ctx, &e.beat, 0, p)
	}
}

// pushed takes orders that came unasked, and tells that they are obeyed: at once, or after the heartbeat that is on its way.
func (e *Engine) pushed(ctx context.Context, o *agentv1.Orders, at liveness.Reading) {
	assigned := e.book.AssignedAt()
	e.listen(ctx, heard{o.GetBeacon(), o.GetServerTime(), o.GetOrders()}, at)
	if e.news = e.news || !e.book.AssignedAt().Equal(assigned); e.news {
		e.beat.due = min(e.beat.due, e.boot())
	}
}

// ended takes up that the attempt or session under way is over.
func (e *Engine) ended(ctx context.Context, end session.End) {
	e.line.End(0, "")
	clear(e.told)
	beside := e.overHTTPS && e.beat.doneAt != 0 && e.beat.problem == nil
	was := e.session.View()
	degraded := e.session.Ended(e.boot(), end, beside, e.Random())
	e.lessIf(end.Name())
	log := e.Log
	if was.End != nil && was.End.Phrase == end.Phrase {
		log = log.V(1) // said already
	}
	log.Info("no websocket: "+end.Phrase, "reason", end.Name(), "retry", (e.session.View().Due - e.boot()).Round(time.Millisecond).String())
	switch {
	case end.OfIdentity(): // heartbeats would be refused alike
		refusal := *end.Problem
		refusal.RetryAfter = e.session.Timing.AtLeast(end)
		e.beat.doneAt = e.boot()
		e.failed(ctx, &e.beat, &refusal)
		e.session.Postpone(e.beat.due)
	case degraded: // the server does not know yet
		e.beat.due = min(e.beat.due, e.boot()+time.Duration(e.Random()*float64(e.interval()/10)))
	}
}

// leave ends the websocket because of something here, and it is tried again at once if it is still wanted.
func (e *Engine) leave(code wire.CloseCode) {
	if e.session.Phase() == session.Down {
		return
	}
	e.line.End(code, "")
	clear(e.told)
	e.session.Ended(e.boot(), session.End{Kind: session.Left}, false, 0)
}
