//! A view as one HTML file without anything from outside.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use maud::{DOCTYPE, Markup, PreEscaped, html};
use shike_infer::metrics::Table;

use super::view::{Block, Picture, View};
use crate::text::clean;

const STYLE: &str = "\
body{font:15px/1.5 system-ui,sans-serif;color:#222;background:#fff;margin:2em auto;max-width:1180px;padding:0 1em}
h1{font-size:1.5em}h2{font-size:1.15em;margin-top:2em;border-bottom:1px solid #ddd}
table{border-collapse:collapse;margin:.6em 0}td,th{padding:.2em .7em;border-bottom:1px solid #eee;text-align:right}
th{font-weight:600;background:#fafafa}td:first-child,th:first-child{text-align:left;white-space:pre}
.plots{display:flex;flex-wrap:wrap;gap:12px}.note{color:#666}
.examples :nth-child(2),.examples :last-child{text-align:left}
.examples img{margin-right:4px;vertical-align:middle}pre{background:#f6f6f6;padding:1em;overflow:auto;font-size:13px}";

/// The page. Names of classes and files may hold anything: none can leave its place or move what is around it.
pub(super) fn page(view: &View) -> String {
    let page = html! {
        (DOCTYPE)
        html lang="en" {
            head {
                meta charset="utf-8";
                title { (view.title) }
                meta name="viewport" content="width=device-width";
                style { (PreEscaped(STYLE)) }
            }
            body {
                h1 { (view.title) }
                @for block in &view.blocks { (self::block(block)) }
            }
        }
    };
    clean(&page.into_string())
}

fn block(block: &Block) -> Markup {
    html! {
        @match block {
            Block::Heading(text) => { h2 { (text) } }
            Block::Text(text) => { p { (text) } }
            Block::Note(text) => { p.note { (text) } }
            Block::Plots(svg) => { div.plots { (PreEscaped(svg.concat())) } }
            Block::Table(rows, pictures) => { (table(rows, pictures)) }
            Block::Pre(text) => { pre { (text) } }
            Block::Details(summary, text) => { details { summary { (summary) } pre { (text) } } }
        }
    }
}

/// A table; where there are pictures, those of each row stand in a last column.
fn table(Table(rows): &Table, pictures: &[Vec<Picture>]) -> Markup {
    html! {
        table.examples[!pictures.is_empty()] {
            @if let Some(head) = rows.first() {
                tr {
                    @for cell in head { th { (cell) } }
                    @if !pictures.is_empty() { th { "pictures" } }
                }
            }
            @for (i, row) in rows.iter().skip(1).enumerate() {
                tr {
                    @for cell in row { td { (cell) } }
                    @if let Some(pictures) = pictures.get(i) {
                        td { @for picture in pictures { (img(picture)) } }
                    }
                }
            }
        }
    }
}

fn img(Picture { title, jpeg }: &Picture) -> Markup {
    let data = format!("data:image/jpeg;base64,{}", STANDARD.encode(jpeg));
    html! { img alt="" title=(title) src=(data); }
}

#[cfg(test)]
#[allow(clippy::unwrap_used)]
mod tests {
    use super::*;

    #[test]
    fn names_are_text() {
        let name = "a<b>&'\u{202E}\"\u{1b}";
        let picture = Picture {
            title: name.into(),
            jpeg: vec![0xFF],
        };
        let rows = Table(vec![vec!["class".into()], vec![name.into()]]);
        let view = View {
            title: name.into(),
            blocks: vec![
                Block::Heading(name.into()),
                Block::Table(rows, vec![vec![picture]]),
            ],
        };
        let page = page(&view);
        assert_eq!(
            page.matches("a&lt;b&gt;&amp;'?&quot;?").count(),
            5,
            "{page}"
        );
        assert!(page.contains(
            "<img alt=\"\" title=\"a&lt;b&gt;&amp;'?&quot;?\" src=\"data:image/jpeg;base64,/w==\">"
        ));
    }
}
