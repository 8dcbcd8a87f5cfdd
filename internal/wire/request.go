package wire

import (
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
)

// CheckRequest judges the headers that every request must have, and those that none may.
func CheckRequest(r *http.Request) *Problem {
	malformed := func(detail string) *Problem { return &Problem{Name: Malformed, Detail: detail} }
	versions := r.Header.Values(HeaderAgentVersion)
	switch {
	case len(versions) != 1 || !IsVersion(versions[0]):
		return malformed(fmt.Sprintf("The header %s must be the agent's semantic version, for instance 8.0.0, of at most %d bytes.", HeaderAgentVersion, MaxVersion))
	case len(r.TransferEncoding) > 0:
		return &Problem{Name: LengthRequired, Detail: "Send the body with Content-Length; Transfer-Encoding is not accepted."}
	case r.Header.Get("Content-Encoding") != "":
		return &Problem{Name: MediaTypeUnsupported, Detail: "Send the body as it is; Content-Encoding is not accepted."}
	case r.Header.Get("Origin") != "":
		return malformed("The header Origin is not accepted: this is no interface for browsers.")
	case r.Header.Get("Expect") != "" && r.Header.Get("Expect") != "100-continue":
		return malformed("The header Expect may only be 100-continue.")
	}
	return nil
}

// Decode reads the body of r, at most limit bytes, into m and checks its bounds. It tells how the answer is to be encoded.
func Decode[M Message](r *http.Request, limit int64, m M, check func(M) error) (reply Codec, p *Problem) {
	request, reply, p := RequestCodec(r.Header)
	if p != nil {
		return 0, p
	}
	body, p := ReadBody(r, limit)
	if p != nil {
		return 0, p
	}
	if err := request.Unmarshal(body, m); err != nil {
		name := m.ProtoReflect().Descriptor().Name()
		return 0, &Problem{Name: Malformed, Detail: fmt.Sprintf("The body is no %s in %s.", name, request.ContentType())}
	}
	if err := check(m); err != nil {
		return 0, &Problem{Name: Malformed, Detail: "The body exceeds a bound: " + err.Error() + "."}
	}
	return reply, nil
}

// ReadBody reads the body of r, which must say its length and have at most limit bytes. Memory grows with what has arrived and not with
// what was promised, so that a slow client costs no more than it sent.
func ReadBody(r *http.Request, limit int64) ([]byte, *Problem) {
	switch n := r.ContentLength; {
	case n <= 0:
		return nil, &Problem{Name: LengthRequired, Detail: "This route needs a body and its Content-Length."}
	case n > limit:
		return nil, &Problem{Name: PayloadTooLarge, Detail: fmt.Sprintf("The body has %d bytes; this route takes at most %d.", n, limit)}
	}
	n := int(r.ContentLength)
	body := make([]byte, 0, min(n, 1<<10))
	for len(body) < n {
		if len(body) == cap(body) {
			body = slices.Grow(body, min(len(body), n-len(body)))
		}
		got, err := r.Body.Read(body[len(body):min(cap(body), n)])
		body = body[:len(body)+got]
		if err != nil && len(body) < n {
			return nil, unread(err)
		}
	}
	return body, nil
}

func unread(err error) *Problem {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return &Problem{Name: MessageTimeout, Detail: "The body did not arrive in time."}
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return &Problem{Name: Malformed, Detail: "The body is shorter than its Content-Length."}
	}
	return &Problem{Name: Malformed, Detail: "The body could not be read."}
}
