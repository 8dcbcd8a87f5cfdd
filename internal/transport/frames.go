package transport

import (
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"time"
	"unicode/utf8"

	"github.com/rollcall-dev/rollcall/internal/wire"
)

// Opcodes of RFC 6455, 5.2.
const (
	opContinuation = 0x0
	opText         = 0x1
	opBinary       = 0x2
	opClose        = 0x8
	opPing         = 0x9
	opPong         = 0xA
)

const (
	finBit     = 0x80
	maskBit    = 0x80
	maxHeader  = 14
	maxControl = 125
)

// Frames that carry nothing, which are control frames and empty ones, come at most one each frameEvery after the first frameBurst. They are
// answered or passed over without anybody's counting them as messages, so this is the only bound of a flood of them.
const (
	frameEvery = 50 * time.Millisecond
	frameBurst = 60
)

// violation is why frames of the peer cannot be taken any further. It is an error and the close that answers it.
type violation struct {
	code wire.CloseCode
	err  error
}

func (v *violation) Error() string { return v.err.Error() }

func malformed(text string) *violation { return &violation{wire.CloseProtocol, errors.New(text)} }

// scanner checks the frames of one peer as their bytes pass: what RFC 6455 demands and the websocket library does not check, or answers with
// its own words. It has no I/O and keeps nothing of a message.
type scanner struct {
	masked bool // the peer is a client, whose frames are masked (5.1)
	kind   byte // opcode of the messages that were agreed
	limit  uint64

	head   [maxHeader]byte
	have   int       // bytes of head
	need   int       // that the header has in all; 0: not known yet
	left   uint64    // bytes of the payload that are to come
	inside bool      // a message of several frames has begun
	size   uint64    // bytes of the message so far, as announced
	reason []byte    // of the close frame that is being received
	closed bool      // the peer has closed: what follows is nobody's business
	due    time.Time // when the next frame that carries nothing would be on time
}

// scan takes the next bytes. It tells how many of them may be handed on, and why no more. now is called for frames that carry nothing.
func (s *scanner) scan(p []byte, now func() time.Time) (int, *violation) {
	for i := 0; i < len(p); {
		if s.closed {
			return len(p), nil
		}
		if s.need > 0 && s.have == s.need { // in the payload
			n := min(uint64(len(p)-i), s.left)
			if v := s.payload(p[i : i+int(n)]); v != nil { //nolint:gosec // at most len(p)
				return i, v
			}
			i += int(n) //nolint:gosec // likewise
			continue
		}
		if v := s.header(p[i], now); v != nil {
			return i, v
		}
		i++
	}
	return len(p), nil
}

func (s *scanner) opcode() byte    { return s.head[0] & 0xF }
func (s *scanner) isControl() bool { return s.head[0]&0x8 != 0 }

// atSingle tells whether what comes next is a message in one frame, whose header is here whole.
func (s *scanner) atSingle(p []byte) bool {
	return !s.closed && !s.inside && s.have == 0 && len(p) >= 2 && p[0] == finBit|s.kind && len(p) >= headerBytes(p)
}

// header takes one byte of a frame's header, and judges it before anybody else sees it.
func (s *scanner) header(b byte, now func() time.Time) (v *violation) {
	s.head[s.have] = b
	switch s.have {
	case 0:
		v = s.first()
	case 1:
		v = s.second()
	}
	if v != nil {
		return v
	}
	s.have++
	if s.have == s.need-s.maskBytes() {
		if v := s.length(); v != nil {
			return v
		}
	}
	if s.have < 2 || s.have < s.need {
		return nil
	}
	if (s.isControl() || s.left == 0 && s.head[0]&finBit == 0) && !s.afford(now()) {
		return &violation{wire.ClosePolicy, errors.New("too many frames that carry nothing")}
	}
	if s.left == 0 {
		return s.end()
	}
	return nil
}

// first judges the byte with the opcode.
func (s *scanner) first() *violation {
	fin := s.head[0]&finBit != 0
	switch {
	case s.head[0]&0x70 != 0:
		return malformed("a reserved bit is set, and no extension was agreed")
	case s.isControl() && s.opcode() > opPong, !s.isControl() && s.opcode() > opBinary:
		return malformed("the opcode is reserved")
	case s.isControl() && !fin:
		return malformed("a control frame is fragmented")
	case s.isControl():
		return nil
	case s.opcode() == opContinuation && !s.inside:
		return malformed("a continuation of no message")
	case s.opcode() != opContinuation && s.inside:
		return malformed("a new message before the one under way has ended")
	case s.opcode() != opContinuation && s.opcode() != s.kind:
		return &violation{wire.CloseUnsupportedData, errors.New("text where binary was agreed, or the other way round")}
	}
	return nil
}

// second judges the byte with the mask bit and the short length.
func (s *scanner) second() *violation {
	short := s.head[1] &^ maskBit
	switch {
	case s.masked && s.head[1]&maskBit == 0:
		return malformed("a frame of the client is not masked")
	case !s.masked && s.head[1]&maskBit != 0:
		return malformed("a frame of the server is masked")
	case s.isControl() && short > maxControl:
		return malformed("a control frame has more than 125 bytes")
	case s.opcode() == opClose && short == 1:
		return malformed("a close frame has half a code")
	}
	s.need = 2 + s.maskBytes()
	switch short {
	case 126:
		s.need += 2
	case 127:
		s.need += 8
	}
	return nil
}

func (s *scanner) maskBytes() int {
	if s.masked {
		return 4
	}
	return 0
}

// length judges the length once it is whole.
func (s *scanner) length() *violation {
	shortest := uint64(0)
	switch s.have {
	case 2:
		s.left = uint64(s.head[1] &^ maskBit)
	case 4:
		s.left, shortest = uint64(binary.BigEndian.Uint16(s.head[2:])), 126
	default:
		s.left, shortest = binary.BigEndian.Uint64(s.head[2:]), 1<<16
	}
	if s.left>>63 != 0 || s.left < shortest {
		return malformed("a length is not written as it must be")
	}
	if s.isControl() {
		return nil
	}
	if s.size > s.limit || s.left > s.limit-s.size {
		return &violation{wire.CloseTooBig, errors.New("the message is too big")}
	}
	s.size += s.left
	s.inside = true
	return nil
}

// payload passes over bytes of a frame, but for the payload of a close frame, which is judged at its end.
func (s *scanner) payload(p []byte) *violation {
	if s.opcode() == opClose {
		s.reason = append(s.reason, p...)
	}
	s.left -= uint64(len(p))
	if s.left == 0 {
		return s.end()
	}
	return nil
}

// end of a frame.
func (s *scanner) end() *violation {
	op, fin := s.opcode(), s.head[0]&finBit != 0
	s.have, s.need = 0, 0
	switch {
	case op == opClose:
		s.closed = true
		return s.closing()
	case !s.isControl() && fin:
		s.inside, s.size = false, 0
	}
	return nil
}

// closing judges the payload of a close frame (5.5.1, 7.4).
func (s *scanner) closing() *violation {
	b := s.reason
	s.reason = nil
	if len(b) == 0 {
		return nil
	}
	if s.masked {
		mask := s.head[2:6]
		for i := range b {
			b[i] ^= mask[i%4]
		}
	}
	switch code := binary.BigEndian.Uint16(b); {
	case code < 1000, code > 4999, code > 1014 && code < 3000, code == 1004, code == uint16(wire.CloseNoStatus), code == uint16(wire.CloseAbnormal):
		return malformed("a close frame has a code that is never sent")
	case !utf8.Valid(b[2:]):
		return &violation{wire.CloseInvalidPayload, errors.New("the reason of a close frame is not UTF-8")}
	}
	return nil
}

// afford tells whether one more frame that carries nothing is within the rate.
func (s *scanner) afford(now time.Time) bool {
	if s.due.Before(now) {
		s.due = now
	}
	s.due = s.due.Add(frameEvery)
	return s.due.Sub(now) <= frameBurst*frameEvery
}

// headerBytes is how long a header is, of which two bytes are enough.
func headerBytes(head []byte) int {
	n := 2
	if head[1]&maskBit != 0 {
		n += 4
	}
	switch head[1] &^ maskBit {
	case 126:
		n += 2
	case 127:
		n += 8
	}
	return n
}

// frameBytes is how long a frame is with its header, which must be whole.
func frameBytes(head []byte) uint64 {
	n := uint64(headerBytes(head)) //nolint:gosec // at most 14
	switch short := head[1] &^ maskBit; short {
	case 126:
		return n + uint64(binary.BigEndian.Uint16(head[2:]))
	case 127:
		return n + binary.BigEndian.Uint64(head[2:])
	default:
		return n + uint64(short)
	}
}

// serverHeader is the header of a message of so many bytes in one frame, which is not masked.
func serverHeader(head *[maxHeader]byte, opcode byte, size int) []byte {
	b := append(head[:0], finBit|opcode)
	switch {
	case size < 126:
		return append(b, byte(size)) //nolint:gosec // just seen
	case size < 1<<16:
		return binary.BigEndian.AppendUint16(append(b, 126), uint16(size))
	default:
		return binary.BigEndian.AppendUint64(append(b, 127), uint64(size))
	}
}

// closeFrame is a close frame of this side. A client's is masked, which hides nothing and is demanded (5.3).
func closeFrame(code wire.CloseCode, reason string, client bool) []byte {
	reason = wire.CutText(reason, wire.MaxCloseReason)
	payload := append(binary.BigEndian.AppendUint16(nil, uint16(code)), reason...)
	frame := []byte{finBit | opClose, byte(len(payload))} //nolint:gosec // at most 125
	if client {
		frame[1] |= maskBit
		key := binary.NativeEndian.AppendUint32(nil, rand.Uint32()) //nolint:gosec // against caches that are confused, not against readers
		frame = append(frame, key...)
		for i := range payload {
			payload[i] ^= key[i%4]
		}
	}
	return append(frame, payload...)
}
