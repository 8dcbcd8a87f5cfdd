package transport

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"github.com/rollcall-dev/rollcall/internal/wire"
)

// The peer in these tests is written from RFC 6455, and says whatever it is told to.

const (
	fin  = 0x80
	rsv1 = 0x40
	rsv2 = 0x20
	rsv3 = 0x10
)

// bytesOf is a frame. first has FIN, the reserved bits and the opcode.
func bytesOf(first byte, masked bool, payload string) []byte {
	return append(headOf(first, masked, uint64(len(payload))), maskedWith(masked, payload)...)
}

var maskKey = []byte{0x37, 0xfa, 0x21, 0x3d}

// headOf is the header of a frame, with its mask.
func headOf(first byte, masked bool, n uint64) []byte {
	var bit byte
	if masked {
		bit = 0x80
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
		b = append(b, maskKey...)
	}
	return b
}

func maskedWith(masked bool, payload string) []byte {
	b := []byte(payload)
	for i := range b {
		if masked {
			b[i] ^= maskKey[i%4]
		}
	}
	return b
}

// client is a frame as a client sends it.
func client(first byte, payload string) []byte { return bytesOf(first, true, payload) }

// closing is the payload of a close frame.
func closing(code uint16, reason string) string {
	return string(binary.BigEndian.AppendUint16(nil, code)) + reason
}

func join(frames ...[]byte) []byte { return bytes.Join(frames, nil) }

// frame as it was received.
type frame struct {
	first   byte
	masked  bool
	payload string
}

// readFrame reads one, and insists on the shortest form of its length.
func readFrame(r io.Reader) (f frame, err error) {
	var head [8]byte
	if _, err = io.ReadFull(r, head[:2]); err != nil {
		return f, err
	}
	f.first, f.masked = head[0], head[1]&0x80 != 0
	n := uint64(head[1] &^ 0x80)
	switch n {
	case 126:
		_, err = io.ReadFull(r, head[:2])
		n = uint64(binary.BigEndian.Uint16(head[:]))
	case 127:
		_, err = io.ReadFull(r, head[:8])
		n = binary.BigEndian.Uint64(head[:])
	}
	var key [4]byte
	if f.masked && err == nil {
		_, err = io.ReadFull(r, key[:])
	}
	if err != nil {
		return f, err
	}
	payload := make([]byte, n)
	_, err = io.ReadFull(r, payload)
	for i := range payload {
		payload[i] ^= key[i%4]
	}
	f.payload = string(payload)
	return f, err
}

// said is what a peer received until the end of the connection.
type said struct {
	messages []string
	pongs    []string
	close    string // the payload of the close frame; "none" if none came
}

// hear reads to the end. Nothing may follow a close frame.
func hear(r io.Reader, fromClient bool) (s said, err error) {
	s.close = "none"
	for {
		f, err := readFrame(r)
		switch {
		case err == io.EOF: //nolint:errorlint // readFrame wraps nothing
			return s, nil
		case err != nil:
			return s, err
		case f.masked != fromClient:
			return s, fmt.Errorf("masked: %v", f.masked)
		case s.close != "none":
			return s, fmt.Errorf("frame %#x after the close frame", f.first)
		}
		switch f.first {
		case fin | opText, fin | opBinary:
			s.messages = append(s.messages, f.payload)
		case fin | opPong:
			s.pongs = append(s.pongs, f.payload)
		case fin | opClose:
			s.close = f.payload
		default:
			return s, fmt.Errorf("frame %#x", f.first)
		}
	}
}

// rawClient is a connection after its upgrade.
type rawClient struct {
	*tls.Conn
	in *bufio.Reader
}

// connect upgrades by hand. early is sent together with the request.
func connect(t testing.TB, s *httptest.Server, subprotocol string, early []byte) rawClient {
	t.Helper()
	conn, err := tls.Dial("tcp", s.Listener.Addr().String(), &tls.Config{InsecureSkipVerify: true})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(10 * time.Second))
	request := "GET / HTTP/1.1\r\nHost: g\r\nConnection: keep-alive, Upgrade\r\nUpgrade: WebSocket\r\nSec-WebSocket-Version: 13\r\n" +
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: other, " + subprotocol + "\r\n\r\n"
	if _, err := conn.Write(append([]byte(request), early...)); err != nil {
		t.Fatal(err)
	}
	c := rawClient{conn, bufio.NewReader(conn)}
	resp, err := http.ReadResponse(c.in, nil)
	if err != nil {
		t.Fatal(err)
	}
	// The key and its answer are the example of RFC 6455, 1.3.
	if resp.StatusCode != 101 || resp.Header.Get("Sec-WebSocket-Accept") != "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" || resp.Header.Get("Sec-WebSocket-Protocol") != subprotocol {
		t.Fatalf("%d %v", resp.StatusCode, resp.Header)
	}
	return c
}

// exchange sends bytes to a server that echoes, in pieces, and listens to the end.
func exchange(t testing.TB, s *httptest.Server, subprotocol string, send []byte) said {
	t.Helper()
	c := connect(t, s, subprotocol, nil)
	go func() {
		for len(send) > 0 {
			n := min(len(send), 1+rand.IntN(40000))
			if _, err := c.Write(send[:n]); err != nil {
				return
			}
			send = send[n:]
		}
	}()
	got, err := hear(c.in, false)
	_ = c.NetConn().Close()
	if err != nil {
		t.Errorf("after %+v: %v", got, err)
	}
	return got
}

func TestUpgradeRequests(t *testing.T) {
	good := map[string]string{
		"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13", "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
		"Sec-WebSocket-Protocol": wire.SubprotocolJSON,
	}
	for _, tc := range []struct {
		header, value string
		want          wire.Name
	}{
		{"Connection", "keep-alive", wire.Malformed},
		{"Upgrade", "h2c", wire.Malformed},
		{"Sec-WebSocket-Version", "8", wire.Malformed},
		{"Sec-WebSocket-Key", "", wire.Malformed},
		{"Sec-WebSocket-Key", "c2hvcnQ=", wire.Malformed},
		{"Sec-WebSocket-Key", "not base64 ............", wire.Malformed},
		{"Content-Length", "5", wire.Malformed},
		{"Sec-WebSocket-Protocol", "", wire.SubprotocolUnsupported},
		{"Sec-WebSocket-Protocol", "v2.agent.rollcall.dev, chat", wire.SubprotocolUnsupported},
		{"Sec-WebSocket-Protocol", "V1.AGENT.ROLLCALL.DEV", wire.SubprotocolUnsupported},
	} {
		r := httptest.NewRequest(http.MethodGet, wire.PathSession, strings.NewReader(""))
		r.ContentLength = 0
		for name, value := range good {
			r.Header.Set(name, value)
		}
		r.Header.Set(tc.header, tc.value)
		if tc.header == "Content-Length" {
			r.ContentLength = 5
		}
		w := httptest.NewRecorder()
		c, problem := Accept(w, r)
		if c != nil || problem == nil || problem.Name != tc.want || problem.Detail == "" {
			t.Errorf("%s: %q gives %+v, want %s", tc.header, tc.value, problem, tc.want)
		}
		if w.Header().Get("Sec-WebSocket-Version") != "13" {
			t.Errorf("%s: %q: the answer does not name the version", tc.header, tc.value)
		}
	}
	r := httptest.NewRequest(http.MethodPost, wire.PathSession, nil)
	if _, problem := Accept(httptest.NewRecorder(), r); problem == nil || problem.Name != wire.MethodNotAllowed {
		t.Errorf("POST gives %+v", problem)
	}
}
