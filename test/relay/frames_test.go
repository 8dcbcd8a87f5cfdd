package relay

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"
)

// frame is a websocket frame as RFC 6455, section 5.2 has it.
func frame(first byte, masked bool, payload string) []byte {
	b := []byte{first, 0}
	switch n := len(payload); {
	case n < 126:
		b[1] = byte(n)
	case n < 1<<16:
		b[1] = 126
		b = binary.BigEndian.AppendUint16(b, uint16(n))
	default:
		b[1] = 127
		b = binary.BigEndian.AppendUint64(b, uint64(n))
	}
	if !masked {
		return append(b, payload...)
	}
	b[1] |= maskBit
	key := []byte{0x37, 0xfa, 0x21, 0x3d} // of the examples in section 5.7
	b = append(b, key...)
	for i := range len(payload) {
		b = append(b, payload[i]^key[i%4])
	}
	return b
}

func readFrame(r *bufio.Reader) (first byte, payload string, err error) {
	header, n, err := readHeader(r, make([]byte, 0, 14))
	if err != nil {
		return 0, "", err
	}
	b := make([]byte, n)
	if _, err := io.ReadFull(r, b); err != nil {
		return 0, "", err
	}
	return header[0], string(unmasked(header, b)), nil
}

func TestExamplesOfTheRFC(t *testing.T) {
	for _, tt := range []struct {
		name  string
		bytes []byte
		text  string
		seen  bool
	}{
		{"unmasked", []byte{0x81, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f}, "Hello", true},
		{"masked", []byte{0x81, 0x85, 0x37, 0xfa, 0x21, 0x3d, 0x7f, 0x9f, 0x4d, 0x51, 0x58}, "Hello", true},
		{"a first fragment", []byte{0x01, 0x03, 0x48, 0x65, 0x6c}, "", false},
		{"a ping", []byte{0x89, 0x05, 0x48, 0x65, 0x6c, 0x6c, 0x6f}, "", false},
		{"256 bytes", append([]byte{0x82, 0x7e, 0x01, 0x00}, make([]byte, 256)...), strings.Repeat("\x00", 256), true},
		{"64 KiB", append([]byte{0x82, 0x7f, 0, 0, 0, 0, 0, 1, 0, 0}, make([]byte, 64<<10)...), "", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, dropped := range []bool{false, true} {
				var out bytes.Buffer
				seen := false
				err := copyMessages(&out, bufio.NewReader(bytes.NewReader(tt.bytes)), func(_ bool, b []byte) bool {
					seen = true
					if string(b) != tt.text {
						t.Errorf("the message is %q", b)
					}
					return dropped
				})
				want := tt.bytes
				if dropped && tt.seen {
					want = nil
				}
				if !errors.Is(err, io.EOF) || seen != tt.seen || !bytes.Equal(out.Bytes(), want) {
					t.Errorf("dropped: %v, seen: %v, %v, %d bytes came through, want %d", dropped, seen, err, out.Len(), len(want))
				}
			}
		})
	}
}

func TestALengthThatIsNone(t *testing.T) {
	b := append([]byte{0x82, 0x7f, 0x80, 0, 0, 0, 0, 0, 0, 0}, "payload"...)
	if err := copyMessages(io.Discard, bufio.NewReader(bytes.NewReader(b)), keepAll); !errors.Is(err, errFrameLength) {
		t.Errorf("got %v", err)
	}
}

// FuzzFrames: whatever comes, it goes on as it came.
func FuzzFrames(f *testing.F) {
	f.Add(frame(finBit|opBinary, true, ping))
	f.Add(append(frame(opText, true, strings.Repeat("x", 200)), frame(finBit|9, false, "y")...))
	f.Add([]byte{0x82, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		var out bytes.Buffer
		err := copyMessages(&out, bufio.NewReader(bytes.NewReader(b)), func(text bool, m []byte) bool { return isPing(text, m) && isPong(text, m) && false })
		if err == nil || !bytes.HasPrefix(b, out.Bytes()) {
			t.Errorf("%v; %x went on as %x", err, b, out.Bytes())
		}
	})
}
