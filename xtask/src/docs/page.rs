//! The parts of a Markdown page that can be checked.

use std::path::{Path, PathBuf};

use pulldown_cmark::{CodeBlockKind, Event, Options, Parser, Tag, TagEnd};

use super::table::{Row, Table};

/// What a page holds.
#[derive(Debug, Default)]
pub struct Page {
    pub blocks: Vec<Block>,
    pub links: Vec<Link>,
    pub tables: Vec<Table>,
}

/// A fenced code block.
#[derive(Debug, PartialEq, Eq)]
pub struct Block {
    /// The first word behind the fence.
    pub language: String,
    /// The line of its first line of text, counted from 1.
    pub line: usize,
    pub text: String,
}

/// A link or an image.
#[derive(Debug, PartialEq, Eq)]
pub struct Link {
    /// Counted from 1.
    pub line: usize,
    /// As written.
    pub target: String,
}

impl Page {
    /// Reads a page.
    pub fn parse(markdown: &str) -> Self {
        let line_of = |offset: usize| 1 + markdown[..offset].matches('\n').count();
        let mut page = Self::default();
        let mut open: Option<Block> = None;
        for (event, range) in Parser::new_ext(markdown, Options::ENABLE_TABLES).into_offset_iter() {
            match event {
                Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(info))) => {
                    open = Some(Block {
                        language: info.split([' ', ',']).next().unwrap_or_default().to_owned(),
                        line: line_of(range.start) + 1,
                        text: String::new(),
                    });
                }
                Event::Text(text) => {
                    if let Some(block) = &mut open {
                        block.text.push_str(&text);
                    }
                }
                Event::End(TagEnd::CodeBlock) => page.blocks.extend(open.take()),
                Event::Start(Tag::Link { dest_url, .. } | Tag::Image { dest_url, .. }) => {
                    page.links.push(Link { line: line_of(range.start), target: dest_url.into_string() });
                }
                Event::Start(Tag::TableHead) => {
                    let head = Row::parse(line_of(range.start), &markdown[range]);
                    page.tables.push(Table { head, rows: Vec::new() });
                }
                Event::Start(Tag::TableRow) => {
                    if let Some(table) = page.tables.last_mut() {
                        table.rows.push(Row::parse(line_of(range.start), &markdown[range]));
                    }
                }
                Event::Start(Tag::Paragraph) => {
                    page.tables.extend(Table::broken(line_of(range.start), &markdown[range]));
                }
                _ => {}
            }
        }
        page
    }
}

impl Link {
    /// The file in the repository that a link on `page` leads to; none for one that leads elsewhere or to
    /// a place on the page itself.
    pub fn path(&self, page: &Path, root: &Path) -> Option<PathBuf> {
        let file = self.target.split(['#', '?']).next().unwrap_or_default();
        let has_scheme =
            file.split_once(':').is_some_and(|(scheme, _)| !scheme.is_empty() && !scheme.contains('/'));
        if file.is_empty() || has_scheme || file.starts_with("//") {
            return None;
        }
        Some(match file.strip_prefix('/') {
            Some(from_root) => root.join(from_root),
            None => page.parent().unwrap_or(root).join(file),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_have_their_language_and_the_line_of_their_text() {
        let page = Page::parse(
            "# T\n\n```sh\ncargo xtask test\n```\n\n1. x\n\n   ```toml title\n   a = 1\n\n   b = 2\n   ```\n",
        );
        assert_eq!(
            page.blocks,
            [
                Block { language: "sh".into(), line: 4, text: "cargo xtask test\n".into() },
                Block { language: "toml".into(), line: 10, text: "a = 1\n\nb = 2\n".into() },
            ]
        );
    }

    #[test]
    fn indented_code_is_no_block_and_a_link_in_code_is_no_link() {
        let page = Page::parse("text\n\n    cargo xtask nothing\n\n`[a](b.md)`\n\n```sh\n[a](c.md)\n```\n");
        assert_eq!(page.blocks.len(), 1);
        assert_eq!(page.links, []);
    }

    #[test]
    fn links_lead_to_files_seen_from_the_page() {
        let page = Page::parse("[a](guide.md#part)\n![i](/deploy/x.svg) [r][ref]\n\n[ref]: ../README.md\n");
        let seen = page
            .links
            .iter()
            .map(|link| (link.line, link.path(Path::new("/r/docs/p.md"), Path::new("/r"))))
            .collect::<Vec<_>>();
        assert_eq!(
            seen,
            [
                (1, Some("/r/docs/guide.md".into())),
                (2, Some("/r/deploy/x.svg".into())),
                (2, Some("/r/docs/../README.md".into())),
            ]
        );
    }

    #[test]
    fn links_that_leave_the_repository_are_not_ours() {
        for target in ["https://example.com/a", "mailto:a@example.com", "#part", "//example.com"] {
            let link = Link { line: 1, target: target.into() };
            assert_eq!(link.path(Path::new("/r/p.md"), Path::new("/r")), None, "{target}");
        }
    }
}
