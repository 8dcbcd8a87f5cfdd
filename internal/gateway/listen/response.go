package listen

import (
	"bufio"
	"bytes"
	"errors"
	"net"
	"net/http"
	"strconv"
	"sync"
	"time"
)

// maxKept is the largest buffer that is kept for another answer.
const maxKept = 64 << 10

var responses = sync.Pool{New: func() any { return &response{header: http.Header{}} }}

var errLength = errors.New("the answer is not as long as was said")

// response collects an answer, so that it is written in one piece with its length known. One that is too long for that, and whose handler sets
// Content-Length, is written as it comes.
type response struct {
	header http.Header
	status int
	body   bytes.Buffer
	head   bytes.Buffer
	toHead bool // the request was HEAD

	streams bool  // it is written as it comes
	begun   bool  // its head was
	left    int64 // how much of it is to come

	conn     *conn
	in       *bufio.Reader
	hijacked bool
}

// newResponse is an answer to r, which is nil if it could not be read.
func newResponse(r *http.Request) *response {
	w, _ := responses.Get().(*response) // the pool holds nothing else
	w.toHead = r != nil && r.Method == http.MethodHead
	return w
}

func (w *response) release() {
	if w.body.Cap() > maxKept || w.head.Cap() > maxKept {
		return
	}
	w.reset()
	responses.Put(w)
}

func (w *response) reset() {
	w.clear()
	w.conn, w.in, w.hijacked = nil, nil, false
}

// clear forgets what was to be answered.
func (w *response) clear() {
	clear(w.header)
	w.status = 0
	w.body.Reset()
	w.head.Reset()
	w.streams, w.begun, w.left = false, false, 0
}

// Header implements http.ResponseWriter.
func (w *response) Header() http.Header { return w.header }

// WriteHeader implements http.ResponseWriter. The first call counts.
func (w *response) WriteHeader(status int) {
	if w.status != 0 {
		return
	}
	w.status = status
	if length := w.declared(); length > maxKept {
		w.streams, w.left = true, length
	}
}

// declared is the length that the handler has set, 0 for none. Most set none, and pay for no parser's error.
func (w *response) declared() int64 {
	text := w.header.Get("Content-Length")
	if text == "" {
		return 0
	}
	length, err := strconv.ParseInt(text, 10, 64)
	if err != nil {
		return 0
	}
	return length
}

// Write implements http.ResponseWriter.
func (w *response) Write(b []byte) (int, error) {
	if w.hijacked {
		return 0, http.ErrHijacked
	}
	w.WriteHeader(http.StatusOK)
	if w.streams {
		return w.stream(b)
	}
	return w.body.Write(b)
}

// stream writes a part of the body, after the head.
func (w *response) stream(b []byte) (int, error) {
	if err := w.begin(); err != nil {
		return 0, err
	}
	if int64(len(b)) > w.left {
		return 0, errLength
	}
	w.conn.writeDeadline()
	n, err := w.conn.stream.Write(b)
	w.left -= int64(n)
	return n, err
}

func (w *response) begin() error {
	if w.begun {
		return nil
	}
	w.begun = true
	w.writeHead()
	w.head.WriteString("\r\n")
	w.conn.writeDeadline()
	_, err := w.conn.stream.Write(w.head.Bytes())
	return err
}

// send writes the answer in one piece, or what is missing of one that was written as it came.
func (w *response) send(c *conn, keep bool) error {
	w.WriteHeader(http.StatusOK)
	if w.streams {
		if !keep {
			w.header.Set("Connection", "close")
		}
		err := w.begin()
		if err == nil && w.left != 0 && !w.toHead {
			err = errLength // nothing may follow it
		}
		return err
	}
	length := int64(w.body.Len())
	if w.toHead && length == 0 {
		length = w.declared()
	}
	w.header.Del("Content-Length")
	w.header.Del("Connection")
	w.writeHead()
	h := &w.head
	bare := w.status == http.StatusNoContent || w.status == http.StatusNotModified
	if !bare {
		h.WriteString("Content-Length: ")
		h.Write(strconv.AppendInt(h.AvailableBuffer(), length, 10))
		h.WriteString("\r\n")
	}
	if !keep {
		h.WriteString("Connection: close\r\n")
	}
	h.WriteString("\r\n")
	if !bare && !w.toHead {
		h.Write(w.body.Bytes())
	}
	c.writeDeadline()
	_, err := c.stream.Write(h.Bytes())
	return err
}

// writeHead writes the status and the headers that were set, up to the last line.
func (w *response) writeHead() {
	h := &w.head
	h.WriteString("HTTP/1.1 ")
	h.Write(strconv.AppendInt(h.AvailableBuffer(), int64(w.status), 10))
	h.WriteString(" " + http.StatusText(w.status) + "\r\nDate: ")
	h.Write(time.Now().UTC().AppendFormat(h.AvailableBuffer(), http.TimeFormat))
	h.WriteString("\r\n")
	_ = w.header.Write(h) // into memory; it replaces line breaks in values, so that no value can begin a line of its own
}

// Hijack implements http.Hijacker. If the handler has begun to answer, the answer's head is sent first: the 101 of an upgrade. The reader has
// what came together with the request; the connection itself has no deadline any more. See Peer.Hand.
func (w *response) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	if w.hijacked {
		return nil, nil, http.ErrHijacked
	}
	c := w.conn
	taken, ok := c.stream.(net.Conn)
	if !ok {
		return nil, nil, errors.New("this connection cannot be hijacked")
	}
	if w.status != 0 {
		w.writeHead()
		w.head.WriteString("\r\n")
		c.writeDeadline()
		if _, err := taken.Write(w.head.Bytes()); err != nil {
			return nil, nil, err
		}
	}
	w.hijacked = true
	c.raw.handed.Store(true)
	_ = taken.SetDeadline(time.Time{}) // fails on a closed connection only
	return taken, bufio.NewReadWriter(w.in, bufio.NewWriterSize(taken, 16)), nil
}
