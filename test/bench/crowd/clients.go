package main

import (
	"bufio"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net/http"
	"time"

	"github.com/open-telemetry/opamp-go/protobufs"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/wire"
	"github.com/rollcall-dev/rollcall/test/bench/drill"
)

// client is a connected agent.
type client interface {
	// beat sends a heartbeat and waits for its answer. Heartbeats of one client come one after the other.
	beat() error
	// sizes are the bytes of the last heartbeat and of its answer.
	sizes() (request, reply int)
	close()
}

// connect makes a client of a kind; a session is settled, too.
func (c *crowd) connect(o drill.Order, a *agent) (client, error) {
	if o.Kind == drill.HTTPS {
		h := &httpsClient{crowd: c, agent: a, address: o.Address}
		return h, settle(h.exchange)
	}
	conn, err := c.dial(a, o.Address, false)
	if err != nil {
		return nil, err
	}
	made, err := greet(o, a, conn)
	if err != nil {
		_ = conn.Close()
		return nil, err
	}
	return made, nil
}

func greet(o drill.Order, a *agent, conn *tls.Conn) (client, error) {
	switch o.Kind {
	case drill.Raw:
		r := &rawClient{conn: conn, request: make([]byte, 4+o.Request), reply: make([]byte, o.Reply)}
		binary.BigEndian.PutUint32(r.request, uint32(o.Request))
		return r, r.beat()
	case drill.OpAMP:
		ws, err := upgrade(conn, o.Address, "/v1/opamp", nil)
		if err != nil {
			return nil, err
		}
		m, err := opampMessage(a, o.Request)
		if err != nil {
			return nil, err
		}
		p := &opampClient{ws: ws, message: m}
		return p, p.beat()
	case drill.Session:
		s, err := openSession(a, conn, o.Address)
		if err != nil {
			return nil, err
		}
		return s, settle(s.exchange)
	default:
		return nil, fmt.Errorf("there is no kind of server %q", o.Kind)
	}
}

// rawClient talks to the raw echo: a length, as many bytes, and back as many as an answer has.
type rawClient struct {
	conn           *tls.Conn
	request, reply []byte
}

func (c *rawClient) beat() error {
	_ = c.conn.SetDeadline(time.Now().Add(patience))
	if _, err := c.conn.Write(c.request); err != nil {
		return err
	}
	_, err := io.ReadFull(c.conn, c.reply)
	return err
}

func (c *rawClient) sizes() (int, int) { return len(c.request) - 4, len(c.reply) }
func (c *rawClient) close()            { _ = c.conn.Close() }

// opampClient talks to opamp-go's server.
type opampClient struct {
	ws      *ws
	message []byte
	reply   int
}

// opampMessage is an agent's heartbeat in OpAMP: who it is, that it is well, and as many bytes more as make it as long as ours.
func opampMessage(a *agent, size int) ([]byte, error) {
	m := &protobufs.AgentToServer{
		InstanceUid: []byte(a.beat.GetAgent().GetInstanceId())[:16], SequenceNum: 1000,
		Capabilities: uint64(protobufs.AgentCapabilities_AgentCapabilities_ReportsStatus | protobufs.AgentCapabilities_AgentCapabilities_ReportsHealth),
		Health:       &protobufs.ComponentHealth{Healthy: true, StartTimeUnixNano: 1, StatusTimeUnixNano: 2, Status: "ok"},
	}
	if missing := size - proto.Size(m) - 6; missing > 0 {
		m.CustomMessage = &protobufs.CustomMessage{Data: make([]byte, missing)}
	}
	b, err := proto.Marshal(m)
	return append([]byte{0}, b...), err // the header of a message is a zero
}

func (c *opampClient) beat() error {
	c.ws.within()
	if err := c.ws.write(opBinary, c.message); err != nil {
		return err
	}
	b, err := c.ws.read()
	c.reply = len(b)
	return err
}

func (c *opampClient) sizes() (int, int) { return len(c.message), c.reply }
func (c *opampClient) close()            { c.ws.close() }

// sessionClient is an agent's session.
type sessionClient struct {
	agent          *agent
	ws             *ws
	id             uint64
	encoded        []byte
	request, reply int
}

func openSession(a *agent, conn *tls.Conn, address string) (*sessionClient, error) {
	ws, err := upgrade(conn, address, wire.PathSession, http.Header{
		"Sec-Websocket-Protocol": {wire.Subprotocol}, wire.HeaderAgentVersion: {version},
	})
	a.beat.Agent.SessionNumber++
	return &sessionClient{agent: a, ws: ws}, err
}

// send sends the next heartbeat and returns its answer, encoded.
func (c *sessionClient) send() ([]byte, error) {
	c.id++
	m := &agentv1.AgentMessage{Id: c.id, Body: &agentv1.AgentMessage_Heartbeat{Heartbeat: c.agent.next()}}
	c.request = m.SizeVT()
	if cap(c.encoded) < c.request {
		c.encoded = make([]byte, c.request)
	}
	c.encoded = c.encoded[:c.request]
	if _, err := m.MarshalToSizedBufferVT(c.encoded); err != nil {
		return nil, err
	}
	c.ws.within()
	if err := c.ws.write(opBinary, c.encoded); err != nil {
		return nil, err
	}
	for {
		b, err := c.ws.read()
		if err != nil {
			return nil, err
		}
		if answers(b) == c.id { // else it came unasked
			c.reply = len(b)
			return b, nil
		}
	}
}

// answers is the number of the message that a server's message answers: the field re of ServerMessage, which comes first.
func answers(b []byte) uint64 {
	number, kind, n := protowire.ConsumeTag(b)
	if n < 0 || number != 1 || kind != protowire.VarintType {
		return 0
	}
	re, _ := protowire.ConsumeVarint(b[n:])
	return re
}

// exchange sends a heartbeat and obeys its answer.
func (c *sessionClient) exchange() (again bool, err error) {
	b, err := c.send()
	if err != nil {
		return false, err
	}
	m := &agentv1.ServerMessage{}
	if err := proto.Unmarshal(b, m); err != nil {
		return false, err
	}
	if p := m.GetProblem(); p != nil {
		return false, fmt.Errorf("the heartbeat was refused: %s %s", p.GetType(), p.GetDetail())
	}
	return c.agent.take(m.GetHeartbeatReply())
}

func (c *sessionClient) beat() error {
	b, err := c.send()
	if err == nil && len(b) < 100 {
		return fmt.Errorf("the heartbeat was not answered as others are, but with %d bytes", len(b))
	}
	return err
}

func (c *sessionClient) sizes() (int, int) { return c.request, c.reply }
func (c *sessionClient) close()            { c.ws.close() }

// httpsClient beats as an agent without a session does: by a connection of its own for each heartbeat, whose TLS is resumed.
type httpsClient struct {
	crowd          *crowd
	agent          *agent
	address        string
	request, reply int
}

func (c *httpsClient) exchange() (again bool, err error) {
	conn, err := c.crowd.dial(c.agent, c.address, true)
	if err != nil {
		return false, err
	}
	defer conn.Close()
	body, err := c.agent.next().MarshalVT()
	if err != nil {
		return false, err
	}
	c.request = len(body)
	head := fmt.Sprintf("POST %s HTTP/1.1\r\nHost: %s\r\n%s: %s\r\nContent-Type: %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n",
		wire.PathHeartbeat, c.address, wire.HeaderAgentVersion, version, wire.Protobuf.ContentType(), len(body))
	if _, err := conn.Write(append([]byte(head), body...)); err != nil {
		return false, err
	}
	resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
	if err != nil {
		return false, err
	}
	defer resp.Body.Close()
	answer, err := io.ReadAll(resp.Body)
	if err != nil {
		return false, err
	}
	c.reply = len(answer)
	if resp.StatusCode != http.StatusOK {
		return false, fmt.Errorf("the heartbeat was answered with %s: %s", resp.Status, answer)
	}
	m := &agentv1.HeartbeatReply{}
	if err := proto.Unmarshal(answer, m); err != nil {
		return false, err
	}
	return c.agent.take(m)
}

func (c *httpsClient) beat() error {
	_, err := c.exchange()
	return err
}

func (c *httpsClient) sizes() (int, int) { return c.request, c.reply }
func (c *httpsClient) close()            {}
