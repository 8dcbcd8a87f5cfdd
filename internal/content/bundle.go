package content

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/bmatcuk/doublestar/v4"
	strictjson "sigs.k8s.io/json"
)

// MediaType of an artifact that is a bundle of content.
const MediaType = "application/vnd.rollcall.content.v1+json"

// Format is what a bundle says of itself.
const Format = "rollcall.content/v1"

// Bounds of a bundle.
const (
	// MaxBytes of the document.
	MaxBytes = 16 << 20
	// MaxRules of one bundle, and MaxEntries, digests and patterns, of all its rules together.
	MaxRules   = 10_000
	MaxEntries = 250_000
	// MaxID, MaxTitle and MaxPattern are in bytes.
	MaxID      = 64
	MaxTitle   = 256
	MaxPattern = 1024
	// maxError is the longest error of Parse, in bytes: what is refused may be long.
	maxError = 240
)

// Bundle is content: what agents are to look for. docs/content.md tells how one is written.
type Bundle struct {
	// Format is Format.
	Format string `json:"format"`
	// Version of the release, as ParseVersion takes it.
	Version string `json:"version"`
	// Rules, at most MaxRules, each with an ID of its own.
	Rules []Rule `json:"rules"`
}

// Rule is one thing to look for. Of SHA256, Paths and EICAR exactly one is set.
type Rule struct {
	// ID names it in what agents report: lower-case letters, digits, dots, hyphens and underscores, at most MaxID bytes.
	ID string `json:"id"`
	// Severity of what it finds.
	Severity Severity `json:"severity"`
	// Title for people, at most MaxTitle bytes; it may be empty.
	Title string `json:"title"`
	// SHA256 are digests of files, 64 lower-case hexadecimal digits each.
	SHA256 []string `json:"sha256"`
	// Paths are patterns of absolute paths, with / between names on every system: * is any characters of a name, ** any names, ? and [...] one
	// character.
	Paths []string `json:"paths"`
	// EICAR finds the test file of that name, which is harmless.
	EICAR bool `json:"eicar"`
}

// Severity of what a rule finds.
type Severity string

// Severities, the least first.
const (
	Info     Severity = "info"
	Low      Severity = "low"
	Medium   Severity = "medium"
	High     Severity = "high"
	Critical Severity = "critical"
)

var (
	ruleID   = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]*$`)
	absolute = regexp.MustCompile(`^(/|[A-Z]:/)`)
)

// Parse reads a bundle. What it does not wholly understand it refuses, because an agent that passes over a rule looks as if it had obeyed it: an
// unknown or doubled field, another letter case, another format, anything after the document, whatever exceeds a bound. The error is one line
// that names the field or the rule. Manager and agents use it alike.
func Parse(document []byte) (*Bundle, error) {
	b, err := parse(document)
	if err != nil {
		return nil, errors.New(line(err.Error(), maxError))
	}
	return b, nil
}

func parse(document []byte) (*Bundle, error) {
	if len(document) > MaxBytes {
		return nil, fmt.Errorf("it has %d bytes, at most %d are allowed", len(document), MaxBytes)
	}
	if !utf8.Valid(document) {
		return nil, errors.New("it is not UTF-8")
	}
	b := &Bundle{}
	strict, err := strictjson.UnmarshalStrict(document, b)
	if err == nil && len(strict) > 0 {
		err = strict[0]
	}
	if err != nil {
		return nil, explain(err, document)
	}
	return b, b.check()
}

// explain says what the decoder found in the words of the document.
func explain(err error, document []byte) error {
	if kind, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
		return fmt.Errorf("line %d: %s cannot be of the kind %q", lineAt(document, kind.Offset), cmp.Or(kind.Field, "the document"), kind.Value)
	}
	if syntax, offset := strictjson.SyntaxErrorOffset(err); syntax {
		return fmt.Errorf("line %d: it is no JSON: %w", lineAt(document, offset), err)
	}
	return errors.New(strings.TrimPrefix(err.Error(), "json: "))
}

func lineAt(document []byte, offset int64) int {
	return 1 + bytes.Count(document[:min(max(offset, 0), int64(len(document)))], []byte("\n"))
}

func (b *Bundle) check() error {
	if b.Format != Format {
		return fmt.Errorf("format is %q, not %q", b.Format, Format)
	}
	if _, err := ParseVersion(b.Version); err != nil {
		return fmt.Errorf("version %q: %w", b.Version, err)
	}
	if b.Rules == nil {
		return errors.New("rules are missing; a list without any is []")
	}
	if len(b.Rules) > MaxRules {
		return fmt.Errorf("it has %d rules, at most %d are allowed", len(b.Rules), MaxRules)
	}
	entries, seen := 0, make(map[string]bool, len(b.Rules))
	for i := range b.Rules {
		r := &b.Rules[i]
		if err := r.check(); err != nil {
			return fmt.Errorf("rule %s: %w", r.name(i), err)
		}
		if seen[r.ID] {
			return fmt.Errorf("rule %s: another one has this id", r.name(i))
		}
		seen[r.ID] = true
		if entries += len(r.SHA256) + len(r.Paths); entries > MaxEntries {
			return fmt.Errorf("rule %s: with it there are more than %d digests and patterns", r.name(i), MaxEntries)
		}
	}
	return nil
}

func (r *Rule) name(i int) string {
	if ruleID.MatchString(r.ID) && len(r.ID) <= MaxID {
		return strconv.Quote(r.ID)
	}
	return strconv.Itoa(i + 1)
}

func (r *Rule) check() error {
	if !ruleID.MatchString(r.ID) || len(r.ID) > MaxID {
		return fmt.Errorf("id is 1 to %d lower-case letters, digits, dots, hyphens and underscores, a letter or a digit first", MaxID)
	}
	switch r.Severity {
	case Info, Low, Medium, High, Critical:
	default:
		return fmt.Errorf("severity %q is none of info, low, medium, high and critical", r.Severity)
	}
	if len(r.Title) > MaxTitle || strings.ContainsFunc(r.Title, unicode.IsControl) {
		return fmt.Errorf("title has at most %d bytes, and no control characters", MaxTitle)
	}
	return r.checkKind()
}

func (r *Rule) checkKind() error {
	kinds := 0
	for _, is := range []bool{r.SHA256 != nil, r.Paths != nil, r.EICAR} {
		if is {
			kinds++
		}
	}
	if kinds != 1 {
		return errors.New("it has exactly one of sha256, paths and eicar: true")
	}
	if !r.EICAR && len(r.SHA256)+len(r.Paths) == 0 {
		return errors.New("its list is empty")
	}
	for i, digest := range r.SHA256 {
		if raw, err := hex.DecodeString(digest); err != nil || len(raw) != 32 || strings.ToLower(digest) != digest {
			return fmt.Errorf("sha256[%d] is not 64 lower-case hexadecimal digits", i)
		}
	}
	for i, pattern := range r.Paths {
		if err := checkPattern(pattern); err != nil {
			return fmt.Errorf("paths[%d]: %w", i, err)
		}
	}
	return nil
}

func checkPattern(p string) error {
	switch {
	case len(p) > MaxPattern || strings.ContainsFunc(p, unicode.IsControl):
		return fmt.Errorf("a pattern has at most %d bytes, and no control characters", MaxPattern)
	case !absolute.MatchString(p):
		return errors.New("a pattern begins with / or a drive such as C:/")
	case strings.ContainsAny(p, `{}\`): // alternatives multiply, and a backslash means another thing on each system
		return errors.New(`a pattern has no braces and no backslashes: write one for each alternative, with / between names`)
	case !doublestar.ValidatePattern(p):
		return errors.New("it is no pattern: a [ has no ]")
	}
	return nil
}

// line is a text in one line of at most so many bytes.
func line(s string, most int) string {
	s = strings.Map(func(r rune) rune {
		if unicode.IsControl(r) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(s, "�"))
	if len(s) <= most {
		return s
	}
	cut := most - len("…")
	for !utf8.RuneStart(s[cut]) {
		cut--
	}
	return s[:cut] + "…"
}
