// Command crowd is the clients of the bench: the same code and the same certificates against every server that is measured, in a process of
// its own. It does what it is ordered on standard input, a line of JSON each (package drill), and answers on standard output.
package main

import (
	"bufio"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"os"

	"github.com/rollcall-dev/rollcall/test/bench/drill"
)

func main() {
	if err := run(os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "crowd:", err)
		os.Exit(1)
	}
}

func run(in io.Reader, out io.Writer) error {
	states := flag.String("states", "", "directory with the state directories of agents that have enrolled, as fleetsim keeps them")
	count := flag.Int("count", 0, "how many of them")
	from := flag.Int("from", 0, "how many of them to leave out first")
	ca := flag.String("ca", "", "file with the CA of the servers that are no gateway")
	source := flag.String("source", "127.0.1.1", "own address")
	flag.Parse()
	agents, err := loadAgents(*states, *from, *count)
	if err != nil {
		return err
	}
	c := &crowd{dialer: dialer{source: *source}, agents: agents, clients: map[drill.Kind][]client{}}
	if err := c.trustFile(*ca); err != nil {
		return err
	}
	orders, answers := json.NewDecoder(bufio.NewReader(in)), json.NewEncoder(out)
	for {
		var o drill.Order
		if err := orders.Decode(&o); err != nil {
			if err == io.EOF {
				return nil
			}
			return fmt.Errorf("read an order: %w", err)
		}
		if err := answers.Encode(c.obey(o)); err != nil {
			return fmt.Errorf("report: %w", err)
		}
	}
}
