package relay

import (
	"bufio"
	"encoding/binary"
	"errors"
	"io"

	agentv1 "github.com/rollcall-dev/rollcall/api/agent/v1"
	"github.com/rollcall-dev/rollcall/internal/wire"
)

// filter tells whether a message is to be swallowed. text is the JSON of the protocol's twin, else it is protobuf.
type filter func(text bool, message []byte) bool

func keepAll(bool, []byte) bool { return false }

func isPing(text bool, message []byte) bool {
	m := &agentv1.AgentMessage{}
	return codec(text).Unmarshal(message, m) == nil && m.GetPing() != nil
}

func isPong(text bool, message []byte) bool {
	m := &agentv1.ServerMessage{}
	return codec(text).Unmarshal(message, m) == nil && m.GetPong() != nil
}

func codec(text bool) wire.Codec {
	if text {
		return wire.JSON
	}
	return wire.Protobuf
}

// maxFiltered is the size of messages that are looked at. Pings and pongs have some ten bytes.
const maxFiltered = 512

const (
	opText    = 1
	opBinary  = 2
	finBit    = 0x80
	opMask    = 0x0f
	maskBit   = 0x80
	lengthFor = 0x7f
)

var errFrameLength = errors.New("a websocket frame has a negative length")

// copyMessages copies websocket frames (RFC 6455, section 5.2) as they are, but for small unfragmented messages that drop says yes to.
func copyMessages(to io.Writer, from *bufio.Reader, drop filter) error {
	frame := make([]byte, 0, 14+maxFiltered)
	for {
		header, length, err := readHeader(from, frame[:0])
		if err != nil {
			return err
		}
		if length > maxFiltered || header[0]&finBit == 0 || header[0]&opMask != opText && header[0]&opMask != opBinary {
			if _, err := to.Write(header); err != nil {
				return err
			}
			if _, err := io.CopyN(to, from, length); err != nil {
				return err
			}
			continue
		}
		whole := header[:len(header)+int(length)]
		if _, err := io.ReadFull(from, whole[len(header):]); err != nil {
			return err
		}
		if drop(header[0]&opMask == opText, unmasked(header, whole[len(header):])) {
			continue
		}
		if _, err := to.Write(whole); err != nil {
			return err
		}
	}
}

// readHeader appends a frame's header to b, with its masking key.
func readHeader(from io.Reader, b []byte) (header []byte, length int64, err error) {
	more := func(n int) []byte {
		b = b[:len(b)+n]
		if err == nil {
			_, err = io.ReadFull(from, b[len(b)-n:])
		}
		return b[len(b)-n:]
	}
	first := more(2)
	length = int64(first[1] & lengthFor)
	switch length {
	case 126:
		length = int64(binary.BigEndian.Uint16(more(2)))
	case 127:
		length = int64(binary.BigEndian.Uint64(more(8))) // the highest bit must be 0
	}
	if first[1]&maskBit != 0 {
		more(4)
	}
	if err == nil && length < 0 {
		err = errFrameLength
	}
	return b, length, err
}

// unmasked is a copy of a payload without its mask, if it has one.
func unmasked(header, payload []byte) []byte {
	if header[1]&maskBit == 0 {
		return payload
	}
	key := header[len(header)-4:]
	plain := make([]byte, len(payload))
	for i, b := range payload {
		plain[i] = b ^ key[i%4]
	}
	return plain
}
