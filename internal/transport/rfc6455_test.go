package transport

import (
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/rollcall-dev/rollcall/internal/wire"
)

const goodbye = "\x03\xe8" // 1000

// What a client may do, and what the gateway sends back until the end. Numbers are sections of RFC 6455.
func TestGoodFrames(t *testing.T) {
	s := serve(t, echo)
	bye := client(fin|opClose, goodbye)
	type one struct {
		name string
		send []byte
		want said
	}
	cases := []one{
		{"one frame", join(client(fin|opBinary, "Hello"), bye), said{messages: []string{"Hello"}}},
		{"the empty message", join(client(fin|opBinary, ""), bye), said{messages: []string{""}}},
		{"fragments (5.4)", join(client(opBinary, "Hel"), client(opContinuation, ""), client(fin|opContinuation, "lo"), bye), said{messages: []string{"Hello"}}},
		{"empty fragments", join(client(opBinary, ""), client(opContinuation, ""), client(fin|opContinuation, ""), bye), said{messages: []string{""}}},
		{
			"control frames between fragments (5.4)",
			join(client(opBinary, "Hel"), client(fin|opPing, "are you there"), client(opContinuation, "l"), client(fin|opPong, "nobody asked"), client(fin|opContinuation, "o"), bye),
			said{messages: []string{"Hello"}, pongs: []string{"are you there"}},
		},
		{"pings of every size (5.5.2)", join(client(fin|opPing, ""), client(fin|opPing, strings.Repeat("p", 125)), bye), said{pongs: []string{"", strings.Repeat("p", 125)}}},
		{"two messages", join(client(fin|opBinary, "a"), client(fin|opBinary, "b"), bye), said{messages: []string{"a", "b"}}},
		{"any octets, in binary", join(client(fin|opBinary, "\xff\xfe\x00"), bye), said{messages: []string{"\xff\xfe\x00"}}},
		{"what follows a close (5.5.1)", join(bye, client(fin|opBinary, "late"), []byte{0xff, 0xff}), said{}},
		{"the largest message", join(client(fin|opBinary, strings.Repeat("x", wire.MaxAgentMessageBytes)), bye), said{messages: []string{strings.Repeat("x", wire.MaxAgentMessageBytes)}}},
	}
	for i := range cases {
		cases[i].want.close = goodbye
	}
	for _, payload := range []string{"", closing(1000, strings.Repeat("r", 123)), closing(1001, "ä")} {
		cases = append(cases, one{fmt.Sprintf("close %q", payload), client(fin|opClose, payload), said{close: payload}})
	}
	for _, code := range []uint16{1000, 1001, 1002, 1003, 1007, 1008, 1009, 1010, 1011, 1012, 1013, 1014, 3000, 3999, 4000, 4408, 4999} {
		cases = append(cases, one{fmt.Sprintf("close %d (7.4)", code), client(fin|opClose, closing(code, "")), said{close: closing(code, "")}})
	}
	for _, tc := range cases {
		got := exchange(t, s, wire.Subprotocol, tc.send)
		if diff := cmp.Diff(tc.want, got, cmp.AllowUnexported(said{})); diff != "" {
			t.Errorf("%s: %.2000s", tc.name, diff)
		}
	}
}

// What a client must not do, and the code of the close frame that it gets.
func TestBadFrames(t *testing.T) {
	type one struct {
		name string
		send []byte
		code uint16
	}
	const big = wire.MaxAgentMessageBytes
	cases := []one{
		{"text where binary was agreed", client(fin|opText, "x"), 1003},
		{"no mask (5.1)", bytesOf(fin|opBinary, false, "x"), 1002},
		{"no mask, on a ping", bytesOf(fin|opPing, false, "x"), 1002},
		{"no mask, on a close", bytesOf(fin|opClose, false, goodbye), 1002},
		{"a continuation of nothing (5.4)", client(fin|opContinuation, "x"), 1002},
		{"a continuation after the end", join(client(opBinary, "a"), client(fin|opContinuation, "b"), client(fin|opContinuation, "c")), 1002},
		{"a message in a message", join(client(opBinary, "a"), client(fin|opBinary, "b")), 1002},
		{"a ping of 126 bytes (5.5)", client(fin|opPing, strings.Repeat("p", 126)), 1002},
		{"a pong of 70000 bytes", client(fin|opPong, strings.Repeat("p", 70000)), 1002},
		{"a close of 126 bytes", client(fin|opClose, closing(1000, strings.Repeat("r", 124))), 1002},
		{"a fragmented ping", client(opPing, "p"), 1002},
		{"a fragmented close", client(opClose, goodbye), 1002},
		{"half a close code (5.5.1)", client(fin|opClose, "\x03"), 1002},
		{"a reason that is not UTF-8 (8.1)", client(fin|opClose, closing(1000, "\xff")), 1007},
		{"a length with the highest bit (5.2)", headOf(fin|opBinary, true, 1<<63), 1002},
		{"a giant length, and no more", headOf(fin|opBinary, true, 1<<62), 1009},
		{"one byte too many", headOf(fin|opBinary, true, big+1), 1009},
		{"one byte too many, and all of them", client(fin|opBinary, strings.Repeat("x", big+1)), 1009},
		{"one byte too many, in fragments", join(client(opBinary, strings.Repeat("x", big)), client(opContinuation, ""), headOf(fin|opContinuation, true, 1)), 1009},
		{"a fragment whose length overflows the sum", join(client(opBinary, "x"), headOf(fin|opContinuation, true, 1<<63-1)), 1009},
		{"5 in 16 bits (5.2)", []byte{fin | opBinary, 0x80 | 126, 0, 5, 0, 0, 0, 0, 1, 2, 3, 4, 5}, 1002},
		{"5 in 64 bits", []byte{fin | opBinary, 0x80 | 127, 0, 0, 0, 0, 0, 0, 0, 5, 0, 0, 0, 0, 1, 2, 3, 4, 5}, 1002},
		{"a flood of pings", []byte(strings.Repeat(string(client(fin|opPing, "")), 2*frameBurst)), 1008},
		{"a flood of pongs", []byte(strings.Repeat(string(client(fin|opPong, "x")), 2*frameBurst)), 1008},
		{"a flood of empty fragments", append(client(opBinary, "x"), strings.Repeat(string(client(opContinuation, "")), 2*frameBurst)...), 1008},
	}
	for _, bit := range []byte{rsv1, rsv2, rsv3} {
		cases = append(cases, one{fmt.Sprintf("reserved bit %#x (5.2)", bit), client(fin|bit|opBinary, "x"), 1002},
			one{fmt.Sprintf("reserved bit %#x on a ping", bit), client(fin|bit|opPing, "x"), 1002},
			one{fmt.Sprintf("reserved bit %#x on a fragment", bit), join(client(opBinary, "x"), client(fin|bit|opContinuation, "x")), 1002})
	}
	for _, op := range []byte{3, 4, 5, 6, 7, 0xB, 0xC, 0xD, 0xE, 0xF} {
		cases = append(cases, one{fmt.Sprintf("opcode %#x (5.2)", op), client(fin|op, "x"), 1002})
	}
	for _, code := range []uint16{0, 999, 1004, 1005, 1006, 1015, 1016, 2000, 2999, 5000, 65535} {
		cases = append(cases, one{fmt.Sprintf("close %d (7.4)", code), client(fin|opClose, closing(code, "")), 1002})
	}
	ends := make(chan error, 1)
	s := serve(t, func(c *Conn) {
		for {
			if _, err := c.Read(); err != nil {
				ends <- err
				return
			}
		}
	})
	for _, tc := range cases {
		got := exchange(t, s, wire.Subprotocol, tc.send)
		want := closing(tc.code, string(wire.ParseClose(wire.CloseCode(tc.code), "").Name))
		if got.close != want {
			t.Errorf("%s: closed with %q, want %q", tc.name, got.close, want)
		}
		var e *CloseError
		if err := <-ends; !errors.As(err, &e) || !e.Local || e.Code != wire.CloseCode(tc.code) || e.Err == nil {
			t.Errorf("%s: Read returns %v", tc.name, err)
		}
	}
}

func TestTextMessages(t *testing.T) {
	s := serve(t, echo)
	for _, tc := range []struct {
		name string
		send []byte
		want said
	}{
		{"text", join(client(fin|opText, `{"id":"1"}`), client(fin|opClose, goodbye)), said{[]string{`{"id":"1"}`}, nil, goodbye}},
		{"a character in two fragments", join(client(opText, "\xc3"), client(fin|opContinuation, "\xa4"), client(fin|opClose, goodbye)), said{[]string{"ä"}, nil, goodbye}},
		{"binary where text was agreed", client(fin|opBinary, "{}"), said{close: closing(1003, "media-type-unsupported")}},
		{"no UTF-8 (8.1)", client(fin|opText, "\xff"), said{close: closing(1007, "malformed")}},
		{"half a character", client(fin|opText, "\xc3"), said{close: closing(1007, "malformed")}},
		{"half a character, and the end in a fragment", join(client(opText, "\xc3"), client(fin|opContinuation, "")), said{close: closing(1007, "malformed")}},
		{"a surrogate", client(fin|opText, "\xed\xa0\x80"), said{close: closing(1007, "malformed")}},
		{"written too long", client(fin|opText, "\xc0\xaf"), said{close: closing(1007, "malformed")}},
	} {
		got := exchange(t, s, wire.SubprotocolJSON, tc.send)
		if diff := cmp.Diff(tc.want, got, cmp.AllowUnexported(said{})); diff != "" {
			t.Errorf("%s: %s", tc.name, diff)
		}
	}
}

// A message that was cut off is none, wherever the cut is; and the end is no close.
func TestConnectionsThatBreakOff(t *testing.T) {
	type end struct {
		messages []string
		err      error
	}
	ends := make(chan end, 1)
	s := serve(t, func(c *Conn) {
		var e end
		for e.err == nil {
			var m []byte
			if m, e.err = c.Read(); e.err == nil {
				e.messages = append(e.messages, string(m))
			}
		}
		ends <- e
	})
	whole := join(client(fin|opBinary, "whole"))
	cut := join(client(opBinary, "one "), client(fin|opPing, ""), client(fin|opContinuation, "two"))
	for n := range len(cut) {
		c := connect(t, s, wire.Subprotocol, nil)
		if _, err := c.Write(append(whole, cut[:n]...)); err != nil {
			t.Fatal(err)
		}
		if n%2 == 0 {
			_ = c.CloseWrite() // TLS says so
			go func() { _, _ = io.Copy(io.Discard, c) }()
		} else {
			_ = c.NetConn().Close() // it does not
		}
		e := <-ends
		var ce *CloseError
		if len(e.messages) != 1 || e.messages[0] != "whole" || !errors.As(e.err, &ce) || ce.Code != wire.CloseAbnormal || ce.Local {
			t.Errorf("cut after %d of %d bytes: %q, %v", n, len(cut), e.messages, e.err)
		}
	}
}

// However a message is cut into frames and the frames into packets, whatever is between: it comes whole. What is sent together with the
// upgrade request is not lost.
func TestAnyFragmentation(t *testing.T) {
	s := serve(t, echo)
	rapid.Check(t, func(rt *rapid.T) {
		var sent []byte
		want := said{close: goodbye}
		for range rapid.IntRange(1, 4).Draw(rt, "messages") {
			m := rapid.StringOfN(rapid.RuneFrom([]rune("aä😀\x00")), -1, 300, -1).Draw(rt, "message")
			want.messages = append(want.messages, m)
			op := byte(opText)
			for rest := m; ; op = opContinuation {
				n := rapid.IntRange(0, len(rest)).Draw(rt, "fragment")
				if rapid.Bool().Draw(rt, "ping") && len(want.pongs) < 10 {
					sent = append(sent, client(fin|opPing, "p")...)
					want.pongs = append(want.pongs, "p")
				}
				if rest = rest[n:]; rest == "" {
					sent = append(sent, client(fin|op, m[len(m)-n:])...)
					break
				}
				at := len(m) - len(rest)
				sent = append(sent, client(op, m[at-n:at])...)
				if n == 0 && rapid.Bool().Draw(rt, "give up") {
					sent = append(sent, client(fin|opContinuation, rest)...)
					break
				}
			}
		}
		sent = append(sent, client(fin|opClose, goodbye)...)
		early := rapid.IntRange(0, len(sent)).Draw(rt, "early")
		c := connect(t, s, wire.SubprotocolJSON, sent[:early])
		defer c.Close()
		for rest := sent[early:]; len(rest) > 0; {
			n := rapid.IntRange(1, len(rest)).Draw(rt, "packet")
			if _, err := c.Write(rest[:n]); err != nil {
				rt.Fatal(err)
			}
			rest = rest[n:]
		}
		got, err := hear(c.in, false)
		if diff := cmp.Diff(want, got, cmp.AllowUnexported(said{})); err != nil || diff != "" {
			rt.Fatalf("%v %s", err, diff)
		}
	})
}
