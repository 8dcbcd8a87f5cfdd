package session

import (
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/envelope"
	"github.com/rollcall-dev/rollcall/internal/gateway/auth"
	"github.com/rollcall-dev/rollcall/internal/gateway/heartbeat"
	"github.com/rollcall-dev/rollcall/internal/store"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

// FuzzHandle hands a session any bytes. Nothing breaks, an answer keeps to its bounds and names the message, and what is answered without being
// decoded would have been answered alike.
func FuzzHandle(f *testing.F) {
	hub, source := benchHub(f, 1)
	e := store.Endpoint{Ref: store.Ref{UID: "u"}, IdentityID: idOf(1)}
	source.endpoints[idOf(1)] = e
	begin := func() *Session {
		hub.Open(null{}, auth.Credentials{Certificate: &auth.Certificate{}}, hub.config.Beats.Agent(e, time.Now()), home, time.Now())
		s := hub.all[len(hub.all)-1]
		first, err := wire.Protobuf.Marshal(&agentv1.AgentMessage{Id: 1, Body: &agentv1.AgentMessage_Heartbeat{Heartbeat: beat(1)}})
		if err != nil {
			f.Fatal(err)
		}
		for _, m := range [][]byte{first, usual(2)} {
			if _, p := s.Handle(time.Now(), m, nil); p != nil {
				f.Fatal(p)
			}
			s.Answered()
		}
		return s
	}
	s := begin()
	ping, err := wire.Protobuf.Marshal(&agentv1.AgentMessage{Id: 3, Body: &agentv1.AgentMessage_Ping{Ping: &agentv1.Ping{}}})
	if err != nil {
		f.Fatal(err)
	}
	for _, u := range []*agentv1.ActionUpdate{
		acknowledges(idOf(50)),
		{ActionUid: idOf(50), Phase: agentv1.ActionPhase_ACTION_PHASE_RUNNING, Percent: 45, Message: "at it"},
		{ActionUid: idOf(50), Phase: agentv1.ActionPhase_ACTION_PHASE_FINISHED, Result: sealed(envelope.Result, 1)},
	} {
		update, err := wire.Protobuf.Marshal(&agentv1.AgentMessage{Id: 4, Body: &agentv1.AgentMessage_ActionUpdate{ActionUpdate: u}})
		if err != nil {
			f.Fatal(err)
		}
		f.Add(update)
	}
	for _, seed := range [][]byte{usual(2), usual(77), ping, nil, {0xff}, append(usual(2), ping...), append(usual(2), usual(3)...)} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, message []byte) {
		w := &work{}
		w.peek(message)
		if w.raw != nil && hub.config.Beats.Again(s.agent, w.raw, time.Now(), w.beat()) {
			decoded := &agentv1.AgentMessage{}
			if proto.Unmarshal(message, decoded) == nil && (decoded.GetId() != w.reply.Re || heartbeat.InstanceOf(decoded.GetHeartbeat().GetAgent()) != s.instance) {
				t.Errorf("%v was taken for the last heartbeat, with id %d", decoded, w.reply.Re)
			}
		}
		out, p := s.Handle(time.Now(), message, nil)
		s.unanswered.Store(0)
		if p != nil || len(out) == 0 {
			return
		}
		reply := &agentv1.ServerMessage{}
		if err := wire.Protobuf.Unmarshal(out, reply); err != nil || reply.GetRe() == 0 {
			t.Errorf("answered with %x: %v, %v", out, reply, err)
		}
	})
}
