package main

import (
	"bufio"
	"crypto/rand"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/bits"
	mathrand "math/rand/v2"
	"net"
	"net/http"
	"strings"
	"time"
)

// Opcodes of RFC 6455, section 5.2.
const (
	opBinary = 2
	opClose  = 8
	opPing   = 9
	opPong   = 10
)

// ws is a websocket: the client's side of RFC 6455, as little as the servers here need: they send no fragments.
type ws struct {
	conn net.Conn
	in   *bufio.Reader
	out  []byte
	buf  []byte
}

// upgrade makes a websocket of a connection.
func upgrade(conn net.Conn, address, path string, header http.Header) (*ws, error) {
	var key [16]byte
	_, _ = rand.Read(key[:]) // never fails, see its documentation
	var b strings.Builder
	fmt.Fprintf(&b, "GET %s HTTP/1.1\r\nHost: %s\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Key: %s\r\n",
		path, address, base64.StdEncoding.EncodeToString(key[:]))
	if err := header.Write(&b); err != nil {
		return nil, err
	}
	b.WriteString("\r\n")
	if _, err := io.WriteString(conn, b.String()); err != nil {
		return nil, err
	}
	w := &ws{conn: conn, in: bufio.NewReaderSize(conn, 1<<10)}
	resp, err := http.ReadResponse(w.in, nil)
	if err != nil {
		return nil, fmt.Errorf("the upgrade was not answered: %w", err)
	}
	defer resp.Body.Close() // which is empty, or about to end with the connection
	if resp.StatusCode != http.StatusSwitchingProtocols {
		body, _ := io.ReadAll(io.LimitReader(resp.Body, 1<<10))
		return nil, fmt.Errorf("the upgrade was answered with %s: %s", resp.Status, body)
	}
	return w, nil
}

// write sends one message in one frame, and one TLS record.
func (w *ws) write(opcode byte, payload []byte) error {
	w.out = appendFrame(w.out[:0], opcode, payload)
	_, err := w.conn.Write(w.out)
	return err
}

// appendFrame appends a frame of a client: masked, as section 5.3 has it.
func appendFrame(b []byte, opcode byte, payload []byte) []byte {
	b = append(b, 0x80|opcode)
	switch n := len(payload); {
	case n < 126:
		b = append(b, 0x80|byte(n))
	case n < 1<<16:
		b = binary.BigEndian.AppendUint16(append(b, 0x80|126), uint16(n))
	default:
		b = binary.BigEndian.AppendUint64(append(b, 0x80|127), uint64(n))
	}
	mask := mathrand.Uint32()
	b = binary.LittleEndian.AppendUint32(b, mask)
	start := len(b)
	b = append(b, payload...)
	for i := range b[start:] {
		b[start+i] ^= byte(mask)
		mask = bits.RotateLeft32(mask, -8)
	}
	return b
}

var errFragment = errors.New("the server sent a fragment, or a masked frame")

// read waits for the next message, which is good until the one after.
func (w *ws) read() ([]byte, error) {
	for {
		opcode, payload, err := w.frame()
		if err != nil {
			return nil, err
		}
		switch opcode {
		case opClose:
			return nil, closed(payload)
		case opPing:
			if err := w.write(opPong, payload); err != nil {
				return nil, err
			}
		case opPong:
		default:
			return payload, nil
		}
	}
}

func (w *ws) frame() (opcode byte, payload []byte, err error) {
	var head [8]byte
	if _, err := io.ReadFull(w.in, head[:2]); err != nil {
		return 0, nil, err
	}
	opcode = head[0] & 0xf
	if head[0]&0x80 == 0 || head[1]&0x80 != 0 {
		return 0, nil, errFragment
	}
	n := uint64(head[1])
	switch n {
	case 126:
		_, err = io.ReadFull(w.in, head[:2])
		n = uint64(binary.BigEndian.Uint16(head[:2]))
	case 127:
		_, err = io.ReadFull(w.in, head[:8])
		n = binary.BigEndian.Uint64(head[:8])
	}
	if err != nil {
		return 0, nil, err
	}
	if n > 1<<20 {
		return 0, nil, fmt.Errorf("the server sent a frame of %d bytes", n)
	}
	if uint64(cap(w.buf)) < n {
		w.buf = make([]byte, n)
	}
	payload = w.buf[:n]
	_, err = io.ReadFull(w.in, payload)
	return opcode, payload, err
}

func closed(payload []byte) error {
	if len(payload) < 2 {
		return errors.New("the server closed the websocket")
	}
	return fmt.Errorf("the server closed the websocket: %d %s", binary.BigEndian.Uint16(payload), payload[2:])
}

func (w *ws) close() { _ = w.conn.Close() }

// within gives what follows the usual patience.
func (w *ws) within() { _ = w.conn.SetDeadline(time.Now().Add(patience)) }
