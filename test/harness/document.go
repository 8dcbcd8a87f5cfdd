package harness

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// Command is something that a document tells people to type.
type Command struct {
	// Document is the file, from the repository's root; Line the first of the command.
	Document string
	Line     int
	// Text is what is to be typed, without a comment at its end. A console block that has no "$ " is a script, and one command.
	Text string
	// Block is set in a console block, and not in a code span.
	Block bool
	// Output is what the block shows below the command.
	Output string
}

func (c Command) String() string { return fmt.Sprintf("%s:%d: %s", c.Document, c.Line, c.Text) }

// Documents are the files, from the repository's root, that tell people what to type.
func Documents() ([]string, error) {
	docs, err := filepath.Glob(filepath.Join(Root(), "docs", "*.md"))
	if err != nil {
		return nil, err
	}
	names := []string{"README.md", "CONTRIBUTING.md"}
	for _, d := range docs {
		names = append(names, "docs/"+filepath.Base(d))
	}
	return names, nil
}

// Commands reads a document: the commands of its console blocks and code spans, and what is mentioned in its prose without either, as text
// from the command to the line's end.
func Commands(document string) (commands []Command, mentions []Command, err error) {
	b, err := os.ReadFile(filepath.Join(Root(), document))
	if err != nil {
		return nil, nil, err
	}
	r := reader{document: document}
	for i, line := range strings.Split(string(b), "\n") {
		if err := r.read(i+1, line); err != nil {
			return nil, nil, fmt.Errorf("%s:%d: %w", document, i+1, err)
		}
	}
	return r.commands, r.mentions, nil
}

// ConsoleBlocks are the lines of a document's ```console blocks, one block after another.
func ConsoleBlocks(doc []byte) string {
	var script strings.Builder
	r := reader{}
	for line := range strings.Lines(string(doc)) {
		if !r.fence(strings.TrimRight(line, "\n")) && r.language == "console" {
			script.WriteString(line)
		}
	}
	return script.String()
}

// A code span is a command when it is a program with arguments.
var (
	spans    = regexp.MustCompile("`([^`]+)`")
	program  = regexp.MustCompile(`^(?:[A-Z_]+=\S+ |sudo )*(?:make|kubectl|cytool|rollcall-[a-z]+|fleetsim|systemctl|timedatectl|journalctl|curl|openssl|jq|go|git|docker|apt-get|sslscan|eval|echo) \S`)
	comment  = regexp.MustCompile(`\s+# .*$`)
	wordOnly = regexp.MustCompile(`^kubectl [a-z-]+$`) // the name of a command rather than one to type
	prose    = regexp.MustCompile(`\b(?:kubectl (?:get|describe|apply|patch|annotate|label|delete|wait|explain|diff|edit|certificate|logs|create)` +
		`|cytool (?:status|checkin|websocket)|rollcall-agent (?:install|run|reset)|(?:systemctl|timedatectl|journalctl) [a-z-]+)\b.*`)
)

// reader goes through a document line by line.
type reader struct {
	document           string
	inside             bool
	language           string   // of the block that it is in
	open               *Command // the last one of the block
	script             bool     // that is one command
	commands, mentions []Command
}

// fence tells whether the line begins or ends a block, and notes it.
func (r *reader) fence(line string) bool {
	info, is := strings.CutPrefix(line, "```")
	if !is {
		return false
	}
	if r.inside = !r.inside; !r.inside {
		info = ""
	}
	r.language, r.open = info, nil
	return true
}

func (r *reader) read(n int, line string) error {
	switch {
	case r.fence(line):
	case r.language == "console":
		r.console(n, line)
	case slices.Contains([]string{"sh", "bash", "shell", "shell-session"}, r.language), r.inside && strings.HasPrefix(line, "$ "):
		return errors.New("a block with commands is a ```console block")
	case r.inside:
	case strings.Count(line, "`")%2 != 0:
		return errors.New("a code span does not end on its line, and no test sees whether it is a command")
	default:
		r.prose(n, line)
	}
	return nil
}

func (r *reader) console(n int, line string) {
	text, prompt := strings.CutPrefix(line, "$ ")
	switch {
	case prompt, r.open == nil:
		r.script = !prompt
		r.commands = append(r.commands, Command{Document: r.document, Line: n, Text: comment.ReplaceAllString(text, ""), Block: true})
		r.open = &r.commands[len(r.commands)-1]
	case r.script, strings.HasSuffix(r.open.Text, `\`):
		r.open.Text += "\n" + comment.ReplaceAllString(line, "")
	default:
		r.open.Output += line + "\n"
	}
}

func (r *reader) prose(n int, line string) {
	for _, m := range spans.FindAllStringSubmatch(line, -1) {
		if program.MatchString(m[1]) && !wordOnly.MatchString(m[1]) {
			r.commands = append(r.commands, Command{Document: r.document, Line: n, Text: m[1]})
		}
	}
	for rest := spans.ReplaceAllString(line, "``"); ; {
		at := prose.FindStringIndex(rest)
		if at == nil {
			return
		}
		rest = rest[at[0]:]
		r.mentions = append(r.mentions, Command{Document: r.document, Line: n, Text: rest})
		rest = rest[strings.Index(rest, " "):]
	}
}
