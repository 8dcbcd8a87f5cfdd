package main

import (
	"bufio"
	"context"
	"crypto/rand"
	"crypto/sha1" // RFC 6455, 4.2.2
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// As much of RFC 6455 as a client takes, and frames that no client may send.

const (
	opContinuation = 0x0
	opText         = 0x1
	opBinary       = 0x2
	opClose        = 0x8
	opPing         = 0x9
	opPong         = 0xA
	fin            = 0x80

	jsonSubprotocol     = "v1.json.agent.rollcall.dev"
	protobufSubprotocol = "v1.agent.rollcall.dev"
)

// upgrade is the request for a session, with its headers changed.
func upgrade(change func(http.Header)) call {
	var key [16]byte
	_, _ = rand.Read(key[:]) // never fails
	h := http.Header{
		"Connection": {"Upgrade"}, "Upgrade": {"websocket"}, "Sec-Websocket-Version": {"13"},
		"Sec-Websocket-Key": {base64.StdEncoding.EncodeToString(key[:])}, "Sec-Websocket-Protocol": {jsonSubprotocol},
	}
	if change != nil {
		change(h)
	}
	return call{method: http.MethodGet, path: "/agent/v1/session", header: h}
}

// socket is an open websocket.
type socket struct {
	conn io.ReadWriteCloser
	in   *bufio.Reader
	kind byte // of its messages
}

// open upgrades, and waits where the server asks for that.
func (c *client) open(ctx context.Context, q call) (s *socket, a *answer, err error) {
	a, err = patiently(ctx, func() (*answer, error) {
		req, err := c.request(ctx, q)
		if err != nil {
			return nil, err
		}
		resp, err := c.http.Transport.RoundTrip(req) //nolint:bodyclose // it is the session, or consume closes it. The client's timeout would be the session's
		if err != nil {
			return nil, err
		}
		if resp.StatusCode != http.StatusSwitchingProtocols {
			return consume(resp, 16<<10)
		}
		s, err = accepted(q.header, resp)
		return &answer{status: resp.StatusCode, header: resp.Header}, err
	})
	return s, a, err
}

// accepted checks an answer of 101 (RFC 6455, 4.1).
func accepted(asked http.Header, resp *http.Response) (*socket, error) {
	sum := sha1.Sum([]byte(asked.Get("Sec-WebSocket-Key") + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"))
	conn, ok := resp.Body.(io.ReadWriteCloser)
	got := resp.Header.Get("Sec-WebSocket-Protocol")
	switch {
	case !ok:
		return nil, errors.New("the connection cannot be written to")
	case !strings.EqualFold(resp.Header.Get("Upgrade"), "websocket") || !strings.EqualFold(resp.Header.Get("Connection"), "Upgrade"):
		return nil, fmt.Errorf("101 without Upgrade: %v", resp.Header)
	case resp.Header.Get("Sec-WebSocket-Accept") != base64.StdEncoding.EncodeToString(sum[:]):
		return nil, fmt.Errorf("Sec-WebSocket-Accept is %q", resp.Header.Get("Sec-WebSocket-Accept"))
	case !strings.Contains(asked.Get("Sec-WebSocket-Protocol"), got) || got != jsonSubprotocol && got != protobufSubprotocol:
		return nil, fmt.Errorf("the subprotocol is %q", got)
	case resp.Header.Get("Sec-WebSocket-Extensions") != "":
		return nil, fmt.Errorf("the extension %q was agreed", resp.Header.Get("Sec-WebSocket-Extensions"))
	}
	s := &socket{conn: conn, in: bufio.NewReader(conn), kind: opBinary}
	if got == jsonSubprotocol {
		s.kind = opText
	}
	return s, nil
}

// frame of a client. first has FIN, reserved bits and opcode.
func frame(first byte, payload []byte) []byte {
	return frameOf(first, true, uint64(len(payload)), payload)
}

// frameOf may announce another length than the payload has.
func frameOf(first byte, masked bool, n uint64, payload []byte) []byte {
	var bit byte
	var key [4]byte
	if masked {
		bit = 0x80
		_, _ = rand.Read(key[:])
	}
	b := []byte{first}
	switch {
	case n < 126:
		b = append(b, bit|byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, bit|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, bit|127), n)
	}
	if masked {
		b = append(b, key[:]...)
	}
	for i, c := range payload {
		b = append(b, c^key[i%4])
	}
	return b
}

func closing(code uint16, reason string) []byte {
	return append(binary.BigEndian.AppendUint16(nil, code), reason...)
}

func (s *socket) write(frames ...[]byte) error {
	for _, f := range frames {
		if _, err := s.conn.Write(f); err != nil {
			return err
		}
	}
	return nil
}

// next reads a message, or a control frame, within a time.
func (s *socket) next(limit time.Duration) (op byte, payload []byte, err error) {
	late := time.AfterFunc(limit, func() { _ = s.conn.Close() }) // which ends the read
	defer late.Stop()
	for whole := []byte(nil); ; {
		first, part, err := s.frame()
		switch {
		case err != nil:
			return 0, nil, err
		case first&0x8 != 0:
			return first & 0xF, part, nil
		case op == 0:
			op = first & 0xF
		case first&0xF != opContinuation:
			return 0, nil, errors.New("a message in a message")
		}
		whole = append(whole, part...)
		if first&fin != 0 {
			return op, whole, nil
		}
	}
}

// frame reads one, as a server may send it.
func (s *socket) frame() (first byte, payload []byte, err error) {
	var head [10]byte
	if _, err = io.ReadFull(s.in, head[:2]); err != nil {
		return 0, nil, err
	}
	n, extra := uint64(head[1]), 0
	switch n {
	case 126:
		extra = 2
	case 127:
		extra = 8
	}
	_, err = io.ReadFull(s.in, head[10-extra:])
	if extra > 0 {
		clear(head[2 : 10-extra])
		n = binary.BigEndian.Uint64(head[2:])
	}
	first = head[0]
	switch op := first & 0xF; {
	case err != nil:
		return 0, nil, err
	case head[1]&0x80 != 0:
		return 0, nil, errors.New("the server masks a frame")
	case first&0x70 != 0, op > opBinary && op < opClose, op > opPong, op >= opClose && (n > 125 || first&fin == 0):
		return 0, nil, fmt.Errorf("frame %#x of %d bytes", first, n)
	case n > 1<<20:
		return 0, nil, fmt.Errorf("the server sends %d bytes", n)
	}
	payload = make([]byte, n)
	_, err = io.ReadFull(s.in, payload)
	return first, payload, err
}

// ended reads to the end: the server closes the websocket, and then the connection.
func (s *socket) ended(limit time.Duration) (code uint16, reason string, err error) {
	for {
		op, payload, err := s.next(limit)
		switch {
		case err != nil:
			return 0, "", fmt.Errorf("no close frame came: %w", err)
		case op != opClose:
			continue
		case len(payload) < 2:
			return 0, "", fmt.Errorf("a close frame with %q", payload)
		}
		_ = s.write(frame(fin|opClose, payload)) // the answer; it may be gone already
		if _, _, err = s.next(5 * time.Second); err == nil {
			err = errors.New("something came after the close frame")
		} else if errors.Is(err, io.EOF) {
			err = nil
		}
		return binary.BigEndian.Uint16(payload), string(payload[2:]), err
	}
}
