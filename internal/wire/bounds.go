package wire

import (
	"fmt"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"
	"unicode"
	"unicode/utf8"

	"google.golang.org/protobuf/types/known/durationpb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// Bounds of single values, in bytes where it is text.
const (
	MaxText    = 256
	MaxVersion = 64
	// MaxNumber is the largest integer that every reader of JSON holds exactly. Counters and versions end there.
	MaxNumber = 1<<53 - 1
)

// BoundError says which field of a message is out of its bound, and what the bound is.
type BoundError struct {
	// Field is the path in the message, by the names of agent.proto, for instance inventory.interfaces[2].mac.
	Field string
	// Bound completes the sentence "Field must be ...".
	Bound string
}

func (e *BoundError) Error() string { return e.Field + " must be " + e.Bound }

// err avoids an error that holds a nil *BoundError.
func (e *BoundError) err() error {
	if e == nil {
		return nil
	}
	return e
}

// in puts the field into a message of the field parent.
func (e *BoundError) in(parent string) *BoundError {
	if e != nil {
		e.Field = strings.TrimSuffix(parent+"."+e.Field, ".")
	}
	return e
}

func first(errs ...*BoundError) *BoundError {
	for _, e := range errs {
		if e != nil {
			return e
		}
	}
	return nil
}

// each checks the elements of a repeated field, and that there are lo to hi of them.
func each[T any](field string, items []T, lo, hi int, check func(T) *BoundError) *BoundError {
	if len(items) < lo || len(items) > hi {
		return &BoundError{field, between(lo, hi, "elements")}
	}
	for i, item := range items {
		if e := check(item); e != nil {
			return e.in(field + "[" + strconv.Itoa(i) + "]")
		}
	}
	return nil
}

func between(lo, hi int, what string) string {
	if lo == 0 {
		return fmt.Sprintf("at most %d %s", hi, what)
	}
	return fmt.Sprintf("%d to %d %s", lo, hi, what)
}

func required(field string, present bool) *BoundError {
	if present {
		return nil
	}
	return &BoundError{field, "present"}
}

// text is valid UTF-8 without control characters, of lo to hi bytes.
func text(field, s string, lo, hi int) *BoundError {
	if len(s) >= lo && len(s) <= hi && isText(s) {
		return nil
	}
	return &BoundError{field, between(lo, hi, "bytes of UTF-8 without control characters")}
}

func isText(s string) bool {
	for i := 0; i < len(s); {
		if c := s[i]; c < utf8.RuneSelf {
			if c < ' ' || c == 0x7f {
				return false
			}
			i++
			continue
		}
		r, n := utf8.DecodeRuneInString(s[i:])
		if r == utf8.RuneError && n == 1 || unicode.IsControl(r) {
			return false
		}
		i += n
	}
	return true
}

// CutText makes s fit for a field of at most limit bytes: control characters and what is no UTF-8 become spaces, and the end is cut off
// between characters.
func CutText(s string, limit int) string {
	if !isText(s) {
		s = strings.Map(func(r rune) rune {
			if r == utf8.RuneError || unicode.IsControl(r) {
				return ' '
			}
			return r
		}, s)
	}
	if len(s) <= limit {
		return s
	}
	for limit > 0 && !utf8.RuneStart(s[limit]) {
		limit--
	}
	return s[:limit]
}

func size(field string, b []byte, hi int) *BoundError {
	if len(b) > 0 && len(b) <= hi {
		return nil
	}
	return &BoundError{field, between(1, hi, "bytes")}
}

func number(field string, n, lo, hi uint64) *BoundError {
	if n >= lo && n <= hi {
		return nil
	}
	return &BoundError{field, fmt.Sprintf("from %d to %d", lo, hi)}
}

// uuid is a lower-case UUID, or empty where that is allowed.
func uuid(field, s string, optional bool) *BoundError {
	if optional && s == "" || IsUUID(s) {
		return nil
	}
	return &BoundError{field, "a lower-case UUID"}
}

// digits are exactly n lower-case hexadecimal digits, or none where that is allowed.
func digits(field, s string, n int, optional bool) *BoundError {
	if optional && s == "" || len(s) == n && isHex(s) {
		return nil
	}
	return &BoundError{field, strconv.Itoa(n) + " lower-case hexadecimal digits"}
}

// word is a reason in CamelCase: a capital, then letters and digits. Kubernetes takes it for the reason of a condition.
func word(field, s string) *BoundError {
	if len(s) <= MaxReason && isWord(s) {
		return nil
	}
	return &BoundError{field, fmt.Sprintf("a word in CamelCase of at most %d bytes", MaxReason)}
}

func isWord(s string) bool {
	for _, c := range []byte(s) {
		if (c < 'A' || c > 'Z') && (c < 'a' || c > 'z') && (c < '0' || c > '9') {
			return false
		}
	}
	return s != "" && s[0] >= 'A' && s[0] <= 'Z'
}

// path is absolute on the system of whoever it is for, which the receiver need not be, or empty where that is allowed.
func path(field, s string, optional bool) *BoundError {
	if optional && s == "" || len(s) <= MaxPath && isText(s) && isAbsolute(s) {
		return nil
	}
	return &BoundError{field, fmt.Sprintf("an absolute path of at most %d bytes of UTF-8 without control characters", MaxPath)}
}

// isAbsolute knows /x of Unix, and C:\x, C:/x and \\server\x of Windows.
func isAbsolute(s string) bool {
	drive := len(s) >= 3 && s[1] == ':' && (s[2] == '\\' || s[2] == '/') && (s[0]|0x20 >= 'a' && s[0]|0x20 <= 'z')
	return strings.HasPrefix(s, "/") || strings.HasPrefix(s, `\\`) || drive
}

// network is one in the form of CIDR.
func network(s string) *BoundError {
	if _, err := netip.ParsePrefix(s); err != nil {
		return &BoundError{"", "a network such as 10.0.0.0/8"}
	}
	return nil
}

// proxyURL has a scheme, a host and a port, and no more.
func proxyURL(field, s string) *BoundError {
	if len(s) <= MaxProxyURL && isText(s) {
		u, err := url.Parse(s)
		if err == nil && (u.Scheme == "http" || u.Scheme == "https") && u.Hostname() != "" && isPort(u.Port()) && s == u.Scheme+"://"+u.Host {
			return nil
		}
	}
	return &BoundError{field, fmt.Sprintf("http://host:port or https://host:port of at most %d bytes", MaxProxyURL)}
}

func isPort(s string) bool {
	n, err := strconv.ParseUint(s, 10, 16)
	return err == nil && n > 0
}

func version(field, s string) *BoundError {
	if IsVersion(s) {
		return nil
	}
	return &BoundError{field, fmt.Sprintf("a semantic version of at most %d bytes", MaxVersion)}
}

// moment is a timestamp from the year 1 to 9999, or unset where that is allowed.
func moment(field string, t *timestamppb.Timestamp, optional bool) *BoundError {
	if optional && t == nil || t.IsValid() {
		return nil
	}
	return &BoundError{field, "a time from year 1 to 9999"}
}

// span is a duration from lo to hi, or unset.
func span(field string, d *durationpb.Duration, lo, hi time.Duration) *BoundError {
	if d == nil || d.IsValid() && d.AsDuration() >= lo && d.AsDuration() <= hi {
		return nil
	}
	return &BoundError{field, fmt.Sprintf("from %s to %s", lo, hi)}
}

// IsUUID tells whether s is a lower-case UUID in its usual form, the only one that the protocol knows.
func IsUUID(s string) bool {
	return len(s) == 36 && s[8] == '-' && s[13] == '-' && s[18] == '-' && s[23] == '-' &&
		isHex(s[:8]) && isHex(s[9:13]) && isHex(s[14:18]) && isHex(s[19:23]) && isHex(s[24:])
}

// IsDigest tells whether s is a SHA-256 as the protocol has it: 64 lower-case hexadecimal digits.
func IsDigest(s string) bool { return len(s) == 64 && isHex(s) }

func isHex(s string) bool {
	for _, c := range []byte(s) {
		if (c < '0' || c > '9') && (c < 'a' || c > 'f') {
			return false
		}
	}
	return true
}

// IsVersion tells whether s is a semantic version (semver.org, 2.0.0) of at most MaxVersion bytes.
func IsVersion(s string) bool {
	if len(s) > MaxVersion {
		return false
	}
	s, build, hasBuild := strings.Cut(s, "+")
	core, pre, hasPre := strings.Cut(s, "-")
	major, rest, ok1 := strings.Cut(core, ".")
	minor, patch, ok2 := strings.Cut(rest, ".")
	return ok1 && ok2 && isCount(major) && isCount(minor) && isCount(patch) &&
		(!hasPre || isSeries(pre, true)) && (!hasBuild || isSeries(build, false))
}

func isCount(s string) bool {
	return s != "" && strings.Trim(s, "0123456789") == "" && (s == "0" || s[0] != '0')
}

// isSeries tells whether s is identifiers with dots between; numeric ones of a pre-release have no leading zero.
func isSeries(s string, pre bool) bool {
	for id := range strings.SplitSeq(s, ".") {
		numeric := true
		for _, c := range []byte(id) {
			digit := c >= '0' && c <= '9'
			numeric = numeric && digit
			if !digit && c != '-' && (c < 'a' || c > 'z') && (c < 'A' || c > 'Z') {
				return false
			}
		}
		if id == "" || pre && numeric && !isCount(id) {
			return false
		}
	}
	return true
}
