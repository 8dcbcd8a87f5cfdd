package session

import (
	"slices"
	"sync"

	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/types/known/timestamppb"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

// work is what one message needs while it is handled. It goes round, so that a heartbeat costs few allocations.
type work struct {
	raw     []byte // the heartbeat of the message, encoded; nil if it is not known to be one
	message agentv1.AgentMessage
	reply   agentv1.ServerMessage
	later   bool // the answer comes later

	heartbeat agentv1.ServerMessage_HeartbeatReply
	content   agentv1.HeartbeatReply
	time      timestamppb.Timestamp
}

var (
	works   = sync.Pool{New: func() any { return &work{} }}
	buffers = sync.Pool{New: func() any { b := make([]byte, 0, 1<<10); return &b }}
)

// maxKept is the largest buffer that is kept for another answer.
const maxKept = 64 << 10

func keep(buffer *[]byte) {
	if cap(*buffer) <= maxKept {
		buffers.Put(buffer)
	}
}

func codec(json bool) wire.Codec {
	if json {
		return wire.JSON
	}
	return wire.Protobuf
}

// Fields of an AgentMessage.
const (
	fieldID        = 1
	fieldHeartbeat = 2
)

// peek finds a heartbeat in a message as agents encode it: the id, the heartbeat, and nothing else.
func (w *work) peek(message []byte) {
	number, kind, n := protowire.ConsumeTag(message)
	if n < 0 || number != fieldID || kind != protowire.VarintType {
		return
	}
	id, size := protowire.ConsumeVarint(message[n:])
	if size < 0 || id == 0 || id > wire.MaxNumber {
		return
	}
	message = message[n+size:]
	number, kind, n = protowire.ConsumeTag(message)
	if n < 0 || number != fieldHeartbeat || kind != protowire.BytesType {
		return
	}
	if raw, size := protowire.ConsumeBytes(message[n:]); n+size == len(message) {
		w.raw, w.reply.Re = raw, id
	}
}

func (w *work) decode(message []byte, json bool) *wire.Problem {
	if err := codec(json).Unmarshal(message, &w.message); err != nil {
		return malformed("it is no AgentMessage")
	}
	if err := wire.CheckAgentMessage(&w.message); err != nil {
		return malformed(err.Error())
	}
	w.reply.Re = w.message.GetId()
	return nil
}

// beat is an empty reply to a heartbeat.
func (w *work) beat() *agentv1.HeartbeatReply {
	w.content.ServerTime = &w.time
	w.heartbeat.HeartbeatReply = &w.content
	w.reply.Body = &w.heartbeat
	return &w.content
}

func (w *work) pong() { w.reply.Body = pong }

var pong = &agentv1.ServerMessage_Pong{Pong: &agentv1.Pong{}}

func (w *work) problem(p *wire.Problem) {
	w.reply.Body = &agentv1.ServerMessage_Problem{Problem: p.Proto()}
}

func (w *work) encode(out []byte, json bool) ([]byte, *wire.Problem) {
	return encode(&w.reply, out, json)
}

// encode appends a message to out.
func encode(m *agentv1.ServerMessage, out []byte, json bool) ([]byte, *wire.Problem) {
	if json {
		text, err := wire.JSON.Marshal(m)
		if err != nil {
			return nil, unencodable()
		}
		return append(out, text...), nil
	}
	n := m.SizeVT()
	out = slices.Grow(out, n)[:len(out)+n]
	if _, err := m.MarshalToSizedBufferVT(out); err != nil { // it fills the end
		return nil, unencodable()
	}
	return out, nil
}

func unencodable() *wire.Problem {
	return &wire.Problem{Name: wire.Internal, Detail: "The answer could not be encoded."}
}

// release lets go of everything that is not w's own.
func (w *work) release() {
	w.message.Reset()
	w.reply.Reset()
	w.content.Reset()
	w.raw, w.later = nil, false
	works.Put(w)
}
