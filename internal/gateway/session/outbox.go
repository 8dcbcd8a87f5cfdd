package session

import (
	"sync"
	"time"

	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/api/v1alpha1"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

// Bounds of the orders of actions that wait to be written to one session.
const (
	maxOutbox      = 64
	maxOutboxBytes = 1 << 20
)

// outbox is what waits to be written by a pusher.
type outbox struct {
	mu     sync.Mutex
	orders []*agentv1.Envelope
	bytes  int // of the orders
	// answers are to results of actions, no more than may be unanswered.
	answers []*agentv1.ServerMessage
}

// Channel implements dispatch.Line.
func (s *Session) Channel() v1alpha1.Channel { return v1alpha1.ChannelWebSocket }

// Up implements dispatch.Line.
func (s *Session) Up() bool { return s.is(up) }

// Room implements dispatch.Line.
func (s *Session) Room(order *agentv1.Envelope) bool {
	s.out.mu.Lock()
	defer s.out.mu.Unlock()
	return len(s.out.orders) < maxOutbox && s.out.bytes+order.SizeVT() <= maxOutboxBytes
}

// Send implements dispatch.Line.
func (s *Session) Send(order *agentv1.Envelope) {
	s.out.mu.Lock()
	s.out.orders, s.out.bytes = append(s.out.orders, order), s.out.bytes+order.SizeVT()
	s.out.mu.Unlock()
	s.hub.push(s)
}

// reply answers a message that Handle did not.
func (s *Session) reply(re uint64, p *wire.Problem) {
	m := &agentv1.ServerMessage{Re: re, Body: acknowledged}
	if p != nil {
		m.Body = &agentv1.ServerMessage_Problem{Problem: p.Proto()}
	}
	s.out.mu.Lock()
	s.out.answers = append(s.out.answers, m)
	s.out.mu.Unlock()
	s.hub.push(s)
}

var acknowledged = &agentv1.ServerMessage_Ack{Ack: &agentv1.Ack{}}

// empty takes out what waits.
func (b *outbox) empty() (answers []*agentv1.ServerMessage, orders []*agentv1.Envelope) {
	b.mu.Lock()
	defer b.mu.Unlock()
	answers, orders = b.answers, b.orders
	b.answers, b.orders, b.bytes = nil, nil, 0
	return answers, orders
}

// flush writes what waits.
func (s *Session) flush(now time.Time) {
	answers, orders := s.out.empty()
	for _, m := range answers {
		if s.write(m) {
			s.Answered()
		}
	}
	beacon := s.hub.config.Beats.Beacon()
	for len(orders) > 0 {
		n := fitting(orders)
		if s.write(ordersMessage(orders[:n], beacon, now)) {
			s.hub.metrics.orders.Inc()
		}
		orders = orders[n:]
	}
}

// fitting is how many orders fit into a message, the first in any case.
func fitting(orders []*agentv1.Envelope) int {
	n, bytes := 0, 0
	for n < len(orders) && n < wire.MaxOrders {
		if bytes += orders[n].SizeVT(); n > 0 && bytes > wire.MaxOrdersBytes {
			break
		}
		n++
	}
	return n
}

func ordersMessage(orders []*agentv1.Envelope, beacon *agentv1.Envelope, now time.Time) *agentv1.ServerMessage {
	return &agentv1.ServerMessage{Body: &agentv1.ServerMessage_Orders{
		Orders: &agentv1.Orders{Orders: orders, Beacon: beacon, ServerTime: timestamppb.New(now)},
	}}
}

// write tells whether a message went out. A connection that has failed is found out by the reader.
func (s *Session) write(m *agentv1.ServerMessage) bool {
	buffer := buffers.Get().(*[]byte) //nolint:errcheck,forcetypeassert // the pool holds nothing else
	defer keep(buffer)
	message, p := encode(m, (*buffer)[:0], s.conn.JSON())
	if p != nil {
		s.hub.end(s, p)
		return false
	}
	*buffer = message
	return s.conn.Write(message) == nil
}
