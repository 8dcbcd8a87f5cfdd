package content

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"unicode"
)

const digestA = "275a021bbfb6489e54d471899f7db9d1663fc695ec2fe2a2c4538aabf651fd0f"

const whole = `{
  "format": "rollcall.content/v1",
  "version": "1042",
  "rules": [
    {"id": "eicar", "severity": "info", "title": "EICAR test file", "eicar": true},
    {"id": "cryptominer.x", "severity": "high", "sha256": ["` + digestA + `"]},
    {"id": "startup-scripts", "severity": "medium", "title": "Scripts", "paths": ["/home/*/.config/autostart/**", "C:/Users/?x[a-z]/*.bat", "/**/*.evil"]}
  ]
}`

func TestParse(t *testing.T) {
	b, err := Parse([]byte(whole))
	if err != nil {
		t.Fatal(err)
	}
	if b.Version != "1042" || len(b.Rules) != 3 || !b.Rules[0].EICAR || b.Rules[1].SHA256[0] != digestA || b.Rules[2].Severity != Medium || len(b.Rules[2].Paths) != 3 {
		t.Errorf("%+v", b)
	}
	if b, err := Parse([]byte(`{"format":"rollcall.content/v1","version":"1","rules":[]}`)); err != nil || len(b.Rules) != 0 {
		t.Errorf("without rules: %v, %v", b, err)
	}
}

// What is not wholly understood is refused, in one line that says where.
func TestParseRefuses(t *testing.T) {
	rule := func(fields string) string {
		return `{"format":"rollcall.content/v1","version":"1","rules":[{"id":"ok","severity":"low","eicar":true},{` + fields + `}]}`
	}
	many := func(n int, one func(int) string) string {
		var rules []string
		for i := range n {
			rules = append(rules, one(i))
		}
		return `{"format":"rollcall.content/v1","version":"1","rules":[` + strings.Join(rules, ",") + `]}`
	}
	for name, c := range map[string]struct{ document, says string }{
		"nothing":              {"", "no JSON"},
		"no JSON":              {"\n\nrules:", "line 3"},
		"cut":                  {whole[:len(whole)-1], "no JSON"},
		"something after it":   {whole + "{}", "no JSON"},
		"an array":             {"[]", "array"},
		"null":                 {"null", "format"},
		"not UTF-8":            {strings.Replace(whole, "EICAR", "\xff", 1), "UTF-8"},
		"too large":            {whole + strings.Repeat(" ", MaxBytes), "16777216"},
		"unknown field":        {strings.Replace(whole, `"version"`, `"expires": "never", "version"`, 1), `"expires"`},
		"unknown kind":         {rule(`"id":"a","severity":"low","yara":["x"]`), `"rules[1].yara"`},
		"doubled field":        {strings.Replace(whole, `"version"`, `"version": "1043", "version"`, 1), `"version"`},
		"doubled in a rule":    {rule(`"id":"a","severity":"low","eicar":true,"id":"b"`), `"rules[1].id"`},
		"another letter case":  {strings.Replace(whole, `"version"`, `"Version"`, 1), `"Version"`},
		"another format":       {strings.Replace(whole, "/v1", "/v2", 1), `format is "rollcall.content/v2"`},
		"no format":            {strings.Replace(whole, `"format": "rollcall.content/v1",`, "", 1), "format"},
		"no version":           {strings.Replace(whole, `"version": "1042",`, "", 1), `version ""`},
		"a version of words":   {strings.Replace(whole, `"1042"`, `"newest"`, 1), `version "newest"`},
		"a number as version":  {strings.Replace(whole, `"1042"`, `1042`, 1), "version"},
		"no rules":             {`{"format":"rollcall.content/v1","version":"1"}`, "rules"},
		"no id":                {rule(`"severity":"low","eicar":true`), "rule 2: id"},
		"an id of words":       {rule(`"id":"A rule","severity":"low","eicar":true`), "rule 2: id"},
		"a long id":            {rule(`"id":"` + strings.Repeat("a", 65) + `","severity":"low","eicar":true`), "rule 2: id"},
		"an id twice":          {rule(`"id":"ok","severity":"low","eicar":true`), `rule "ok": another`},
		"no severity":          {rule(`"id":"a","eicar":true`), `rule "a": severity ""`},
		"another severity":     {rule(`"id":"a","severity":"LOW","eicar":true`), `rule "a": severity "LOW"`},
		"a long title":         {rule(`"id":"a","severity":"low","eicar":true,"title":"` + strings.Repeat("a", 257) + `"`), `rule "a": title`},
		"a title in lines":     {rule(`"id":"a","severity":"low","eicar":true,"title":"a\nb"`), `rule "a": title`},
		"no kind":              {rule(`"id":"a","severity":"low"`), `rule "a": it has exactly one`},
		"eicar: false":         {rule(`"id":"a","severity":"low","eicar":false`), `rule "a": it has exactly one`},
		"two kinds":            {rule(`"id":"a","severity":"low","eicar":true,"paths":["/a"]`), `rule "a": it has exactly one`},
		"two, one empty":       {rule(`"id":"a","severity":"low","sha256":[],"paths":["/a"]`), `rule "a": it has exactly one`},
		"an empty list":        {rule(`"id":"a","severity":"low","sha256":[]`), `rule "a": its list is empty`},
		"an upper-case digest": {rule(`"id":"a","severity":"low","sha256":["` + digestA + `","` + strings.ToUpper(digestA) + `"]`), `rule "a": sha256[1]`},
		"a short digest":       {rule(`"id":"a","severity":"low","sha256":["` + digestA[2:] + `"]`), `rule "a": sha256[0]`},
		"no digest":            {rule(`"id":"a","severity":"low","sha256":["` + strings.Repeat("g", 64) + `"]`), `rule "a": sha256[0]`},
		"a broken pattern":     {rule(`"id":"a","severity":"low","paths":["/a","/[a"]`), `rule "a": paths[1]`},
		"a relative pattern":   {rule(`"id":"a","severity":"low","paths":["**/a"]`), `rule "a": paths[0]`},
		"alternatives":         {rule(`"id":"a","severity":"low","paths":["/{a,b}"]`), `rule "a": paths[0]`},
		"a backslash":          {rule(`"id":"a","severity":"low","paths":["C:\\Users"]`), `rule "a": paths[0]`},
		"a long pattern":       {rule(`"id":"a","severity":"low","paths":["/` + strings.Repeat("a", 1024) + `"]`), `rule "a": paths[0]`},
		"a text as list":       {rule(`"id":"a","severity":"low","sha256":"` + digestA + `"`), "sha256"},
		"too many rules":       {many(MaxRules+1, func(i int) string { return fmt.Sprintf(`{"id":"r%d","severity":"low","eicar":true}`, i) }), "10001 rules"},
		"too many entries": {many(9, func(i int) string {
			return fmt.Sprintf(`{"id":"r%d","severity":"low","paths":[%s"/"]}`, i, strings.Repeat(`"/aaaaaaa",`, 30_000))
		}), `rule "r8"`},
		"a long field": {rule(`"` + strings.Repeat("x", 5000) + `":1`), "xxx"},
	} {
		b, err := Parse([]byte(c.document))
		if err == nil || b != nil {
			t.Errorf("%s: taken", name)
			continue
		}
		if says := err.Error(); !strings.Contains(says, c.says) || strings.ContainsFunc(says, unicode.IsControl) || len(says) > maxError {
			t.Errorf("%s: %q, want %q in it", name, says, c.says)
		}
	}
}

func FuzzParse(f *testing.F) {
	f.Add([]byte(whole))
	f.Add([]byte(`{"format":"rollcall.content/v1","version":"1","rules":[]}`))
	f.Add([]byte(`{"format":"rollcall.content/v1","version":"1","rules":[{"id":"a","severity":"low","sha256":["x"],"paths":null}]}`))
	f.Fuzz(func(t *testing.T, document []byte) {
		b, err := Parse(document)
		if err != nil {
			if says := err.Error(); says == "" || len(says) > maxError || strings.ContainsFunc(says, unicode.IsControl) {
				t.Errorf("%q", says)
			}
			return
		}
		for i := range b.Rules {
			if err := b.Rules[i].check(); err != nil {
				t.Errorf("%+v: %v", b.Rules[i], err)
			}
		}
		// What is understood can be written, and is then the same: nothing was passed over.
		again, err := json.Marshal(written(b))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := Parse(again); err != nil {
			t.Errorf("%s: %v", again, err)
		}
	})
}

// written is a bundle as a document has it: a rule without the kinds that it is not of.
func written(b *Bundle) map[string]any {
	rules := []map[string]any{}
	for _, r := range b.Rules {
		m := map[string]any{"id": r.ID, "severity": r.Severity, "title": r.Title}
		switch {
		case r.EICAR:
			m["eicar"] = true
		case r.SHA256 != nil:
			m["sha256"] = r.SHA256
		default:
			m["paths"] = r.Paths
		}
		rules = append(rules, m)
	}
	return map[string]any{"format": b.Format, "version": b.Version, "rules": rules}
}
