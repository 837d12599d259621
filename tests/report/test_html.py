"""Trees become HTML in which no text is markup."""

from html.parser import HTMLParser

from vidfit.report.html import element, folded, table, to_html


def test_text_stands_between_elements():
    assert to_html(element("p", "a", element("b", "c"), "d", "e", element("i"), "f")) == "<p>a<b>c</b>de<i></i>f</p>"


def test_names_and_values_of_attributes():
    made = element("rect", class_="part", stroke_width=1 / 3, viewBox="0 0 1 1", x=2)
    assert to_html(made) == '<rect class="part" stroke-width="0.33" viewBox="0 0 1 1" x="2"></rect>'


def test_nothing_a_user_named_is_markup():
    found: list[str] = []
    parser = HTMLParser()
    parser.handle_starttag = lambda tag, attrs: found.append(f"{tag} {dict(attrs)}")
    parser.handle_data = lambda data: found.append(data)
    evil = "</script><script>alert('1 & 2')</script>\""
    parser.feed(to_html(element("p", element("b", title=evil), evil)))
    assert found == ["p {}", f"b { ({'title': evil}) }", evil]


def test_a_table_knows_words_from_numbers():
    html = to_html(table(("label", "AP"), [("3D film", "0.5"), ("rain", element("b", "1"))], words=("label",)))
    assert '<td class="word">3D film</td><td class="number">0.5</td>' in html
    assert '<th class="number">AP</th>' in html
    assert '<td class="number"><b>1</b></td>' in html


def test_details():
    assert to_html(folded("more", "text")) == "<details><summary>more</summary>text</details>"
