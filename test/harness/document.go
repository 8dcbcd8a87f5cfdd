package harness

import (
	"bufio"
	"bytes"
	"strings"
)

// ConsoleBlocks are the lines of a document's ```console blocks, one block after another.
func ConsoleBlocks(doc []byte) string {
	var script strings.Builder
	inside := false
	for r := bufio.NewScanner(bytes.NewReader(doc)); r.Scan(); {
		switch line := r.Text(); {
		case strings.HasPrefix(line, "```"):
			inside = line == "```console"
		case inside:
			script.WriteString(line + "\n")
		}
	}
	return script.String()
}
