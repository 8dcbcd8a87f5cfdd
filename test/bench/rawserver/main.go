// Command rawserver is as little as a server of connected agents can be in Go: crypto/tls, a goroutine for each connection, and an answer of as
// many bytes as the gateway's for a message of as many bytes as the agent's. What is beyond it is what a protocol costs.
package main

import (
	"crypto/tls"
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"sync"

	"github.com/rollcall-dev/rollcall/test/bench/subject"
)

// maxMessage bounds what a client may announce.
const maxMessage = 64 << 10

func main() {
	fmt.Fprintln(os.Stderr, "rawserver:", run())
	os.Exit(1)
}

// run serves until something is wrong.
func run() error {
	o, err := subject.Parse()
	if err != nil {
		return err
	}
	l, err := tls.Listen("tcp", "127.0.0.1:0", o.TLS)
	if err != nil {
		return err
	}
	subject.CollectOnSignal()
	subject.Announce(os.Stdout, l.Addr().String())
	reply := make([]byte, o.Reply)
	for {
		c, err := l.Accept()
		if err != nil {
			return err
		}
		go serve(c, reply)
	}
}

// buffers are borrowed while there is a message, so that a silent connection holds none.
var buffers = sync.Pool{New: func() any { b := make([]byte, maxMessage); return &b }}

func serve(c net.Conn, reply []byte) {
	defer c.Close()
	var head [4]byte
	for {
		if _, err := io.ReadFull(c, head[:]); err != nil {
			return
		}
		n := binary.BigEndian.Uint32(head[:])
		if n > maxMessage || !answer(c, int(n), reply) {
			return
		}
	}
}

func answer(c net.Conn, n int, reply []byte) bool {
	b, _ := buffers.Get().(*[]byte) // the pool holds nothing else
	defer buffers.Put(b)
	if _, err := io.ReadFull(c, (*b)[:n]); err != nil {
		return false
	}
	_, err := c.Write(reply)
	return err == nil
}
