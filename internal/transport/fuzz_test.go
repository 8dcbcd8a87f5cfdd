package transport

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net"
	"slices"
	"testing"
	"time"
	"unicode/utf8"

	"github.com/google/go-cmp/cmp"

	"github.com/rollcall-dev/rollcall/internal/wire"
)

// canned is a connection whose other end has said everything, in pieces of n bytes, and hung up.
type canned struct {
	net.Conn
	in  *bytes.Reader
	n   int
	out bytes.Buffer
}

func (c *canned) Read(p []byte) (int, error)       { return c.in.Read(p[:min(len(p), c.n)]) }
func (c *canned) Write(p []byte) (int, error)      { return c.out.Write(p) }
func (c *canned) Close() error                     { return nil }
func (c *canned) SetReadDeadline(time.Time) error  { return nil }
func (c *canned) SetWriteDeadline(time.Time) error { return nil }

// heard is what a reader makes of bytes, by a second implementation that has them all at once.
type heard struct {
	messages []string
	pongs    []string
	close    wire.CloseCode
	reason   string
	local    bool
}

func reference(b []byte, masked, text bool, limit uint64) (h heard, control int) {
	h.close = wire.CloseAbnormal
	var message []byte
	inside := false
	refuse := func(code wire.CloseCode) (heard, int) {
		h.close, h.reason, h.local = code, string(wire.ParseClose(code, "").Name), true
		return h, control
	}
	for {
		if len(b) < 1 {
			return h, control
		}
		op, final := b[0]&0xF, b[0]&0x80 != 0
		isControl := op >= 8
		switch {
		case b[0]&0x70 != 0, op > 2 && op < 8, op > 10, isControl && !final, op == 0 && !inside, (op == 1 || op == 2) && inside:
			return refuse(wire.CloseProtocol)
		case op == 1 && !text, op == 2 && text:
			return refuse(wire.CloseUnsupportedData)
		}
		if len(b) < 2 {
			return h, control
		}
		n := uint64(b[1] & 0x7f)
		if (b[1]&0x80 != 0) != masked || isControl && n > 125 || op == 8 && n == 1 {
			return refuse(wire.CloseProtocol)
		}
		head := 2
		switch n {
		case 126:
			head = 4
			if len(b) < head {
				return h, control
			}
			if n = uint64(binary.BigEndian.Uint16(b[2:])); n < 126 {
				return refuse(wire.CloseProtocol)
			}
		case 127:
			head = 10
			if len(b) < head {
				return h, control
			}
			if n = binary.BigEndian.Uint64(b[2:]); n < 65536 || n > 1<<63-1 {
				return refuse(wire.CloseProtocol)
			}
		}
		if !isControl && n+uint64(len(message)) > limit {
			return refuse(wire.CloseTooBig)
		}
		var key [4]byte
		if masked {
			if len(b) < head+4 {
				return h, control
			}
			copy(key[:], b[head:])
			head += 4
		}
		if isControl || n == 0 && !final {
			control++
		}
		if uint64(len(b)-head) < n {
			return h, control
		}
		payload := slices.Clone(b[head : head+int(n)])
		for i := range payload {
			payload[i] ^= key[i%4]
		}
		b = b[head+int(n):]
		switch {
		case op == 9:
			h.pongs = append(h.pongs, string(payload))
		case op == 10:
		case op == 8 && n == 0:
			h.close = wire.CloseNoStatus
			return h, control
		case op == 8:
			code := binary.BigEndian.Uint16(payload)
			assigned := code >= 1000 && code <= 1003 || code >= 1007 && code <= 1014 || code >= 3000 && code <= 4999
			if !assigned {
				return refuse(wire.CloseProtocol)
			}
			if !utf8.Valid(payload[2:]) {
				return refuse(wire.CloseInvalidPayload)
			}
			h.close, h.reason = wire.CloseCode(code), string(payload[2:])
			return h, control
		default:
			inside = true
			message = append(message, payload...)
			if !final {
				continue
			}
			if text && !utf8.Valid(message) {
				return refuse(wire.CloseInvalidPayload)
			}
			h.messages = append(h.messages, string(message))
			message, inside = nil, false
		}
	}
}

// FuzzServer and FuzzClient feed a session's reader what the other side may send: whatever it is, both implementations hear the same.
func FuzzServer(f *testing.F) { fuzz(f, false) }
func FuzzClient(f *testing.F) { fuzz(f, true) }

func fuzz(f *testing.F, isClient bool) {
	for _, b := range [][]byte{
		{},
		join(bytesOf(fin|opBinary, !isClient, "Hello"), bytesOf(fin|opClose, !isClient, goodbye)),
		join(bytesOf(opText, !isClient, "H\xc3"), bytesOf(fin|opPing, !isClient, "?"), bytesOf(fin|opContinuation, !isClient, "\xa4"), bytesOf(fin|opPong, !isClient, "")),
		join(bytesOf(opBinary, !isClient, ""), bytesOf(fin|opContinuation, !isClient, string(make([]byte, 200)))),
		bytesOf(fin|opBinary, isClient, "x"),
		bytesOf(fin|opClose, !isClient, closing(4409, "identity-conflict; retry=300")),
		headOf(fin|opBinary, !isClient, 1<<62),
		headOf(fin|opText, !isClient, 1<<63),
		bytesOf(fin|opClose, !isClient, closing(1000, "\xff")),
	} {
		f.Add(b, false, byte(1))
		f.Add(b, true, byte(200))
	}
	f.Fuzz(func(t *testing.T, b []byte, text bool, piece byte) {
		conn := &canned{in: bytes.NewReader(b), n: int(piece)%60 + 1}
		limit, subprotocol := uint64(wire.MaxAgentMessageBytes), wire.Subprotocol
		if text {
			subprotocol = wire.SubprotocolJSON
		}
		var c *Conn
		if isClient {
			limit = wire.MaxServerMessageBytes
			var err error
			if c, err = Dial(t.Context(), DialOptions{URL: "http://gateway", Transport: overClient{conn}, JSON: text}); err != nil {
				t.Fatal(err)
			}
		} else {
			c = acceptOn(t, conn, subprotocol)
		}
		defer c.CloseNow()
		want, control := reference(b, !isClient, text, limit)
		if control >= frameBurst { // what is within the rate depends on the clock
			return
		}
		var got heard
		for {
			m, err := c.Read()
			if err == nil {
				got.messages = append(got.messages, string(m))
				continue
			}
			var e *CloseError
			if !errors.As(err, &e) {
				t.Fatalf("%T: %v", err, err)
			}
			got.close, got.reason, got.local = e.Code, e.Reason, e.Local
			break
		}
		c.CloseNow()
		answer, err := hear(bytes.NewReader(conn.out.Bytes()), isClient)
		if err != nil {
			t.Fatalf("what went out is not a stream of frames: %v", err)
		}
		got.pongs = answer.pongs
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(heard{})); diff != "" {
			t.Fatal(diff)
		}
		answered := "none"
		switch {
		case want.close == wire.CloseNoStatus:
			answered = ""
		case want.close != wire.CloseAbnormal:
			answered = closing(uint16(want.close), want.reason)
		}
		if answer.close != answered {
			t.Fatalf("answered with %q, want %q", answer.close, answered)
		}
	})
}
