package wire

import (
	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
)

// A session is one websocket (RFC 6455), without extensions. Exactly one subprotocol is agreed: it says how messages are encoded and whether
// they are binary or text.
const (
	PathSession = PathPrefix + "/session"
	// Subprotocol has binary messages in protobuf, SubprotocolJSON text messages in proto3 JSON.
	Subprotocol     = "v1.agent.rollcall.dev"
	SubprotocolJSON = "v1.json.agent.rollcall.dev"
	// MinSessionVersion is the lowest version of an agent that may have a session.
	MinSessionVersion = "6.1"
)

// Messages of a session, in bytes. A reader stops one byte past them.
const (
	MaxAgentMessageBytes  = 256 << 10
	MaxServerMessageBytes = 1 << 20
)

// CheckAgentMessage tells whether m keeps to its bounds. A message without a body, or with one of a later version, does. The error is a
// *BoundError. A good message costs no allocation.
func CheckAgentMessage(m *agentv1.AgentMessage) error {
	return first(number("id", m.GetId(), 1, MaxNumber), agentBody(m)).err()
}

func agentBody(m *agentv1.AgentMessage) *BoundError {
	switch body := m.GetBody().(type) {
	case *agentv1.AgentMessage_Heartbeat:
		return heartbeat(body.Heartbeat).in("heartbeat")
	case *agentv1.AgentMessage_ActionUpdate:
		return actionUpdate(body.ActionUpdate).in("action_update")
	}
	return nil
}

// CheckServerMessage tells whether m keeps to its bounds. Nothing is verified. The error is a *BoundError.
func CheckServerMessage(m *agentv1.ServerMessage) error {
	return first(number("re", m.GetRe(), 0, MaxNumber), serverBody(m)).err()
}

func serverBody(m *agentv1.ServerMessage) *BoundError {
	switch body := m.GetBody().(type) {
	case *agentv1.ServerMessage_HeartbeatReply:
		return heartbeatReply(body.HeartbeatReply).in("heartbeat_reply")
	case *agentv1.ServerMessage_Orders:
		return first(
			newestBeacon(body.Orders.GetBeacon()),
			orders(body.Orders.GetOrders(), 1),
			moment("server_time", body.Orders.GetServerTime(), true),
		).in("orders")
	case *agentv1.ServerMessage_Ack:
		return ack(body.Ack).in("ack")
	case *agentv1.ServerMessage_Problem:
		return problem(body.Problem).in("problem")
	}
	return nil
}

// problem checks one that came as a message. ProblemOf makes it a Problem.
func problem(m *agentv1.Problem) *BoundError {
	return first(
		text("type", m.GetType(), 1, MaxText),
		text("title", m.GetTitle(), 0, MaxText),
		number("status", uint64(m.GetStatus()), 0, 999),
		text("detail", m.GetDetail(), 0, maxDetailBytes),
		text("instance", m.GetInstance(), 0, MaxText),
		text("minimum", m.GetMinimum(), 0, MaxVersion),
		each("supported", m.GetSupported(), 0, maxSupported, func(s string) *BoundError { return text("", s, 1, MaxText) }),
	)
}
